//! Dates for chat templates: civil time in UTC and the part of `strftime` that templates use.

use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];

/// A moment in UTC, in the proleptic Gregorian calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DateTime {
    year: i64,
    month: usize,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    /// From 0, Sunday.
    weekday: usize,
    /// From 1.
    day_of_year: i64,
}

impl From<SystemTime> for DateTime {
    fn from(time: SystemTime) -> Self {
        let seconds = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_secs() as i64,
            Err(before) => -(before.duration().as_secs() as i64),
        };
        Self::from_unix(seconds)
    }
}

impl DateTime {
    /// From seconds since 1970-01-01T00:00:00Z.
    fn from_unix(seconds: i64) -> Self {
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil(days);
        Self {
            year,
            month,
            day,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
            weekday: (days + 4).rem_euclid(7) as usize,
            day_of_year: days - days_before_year(year) + 1,
        }
    }

    /// Format as C's `strftime` in the C locale. The error is the directive that is not supported.
    pub(super) fn format(&self, format: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = chars.next();
            let padded = directive != Some('-');
            if !padded {
                directive = chars.next();
            }
            let text = directive.and_then(|d| self.directive(d, padded));
            out += &text.ok_or_else(|| format!("%{}{}", if padded { "" } else { "-" }, directive.map_or(String::new(), String::from)))?;
        }
        Ok(out)
    }

    fn directive(&self, directive: char, padded: bool) -> Option<String> {
        let number = |value: i64, width: usize| if padded { format!("{value:0width$}") } else { value.to_string() };
        let month = MONTHS[self.month - 1];
        let day = DAYS[self.weekday];
        Some(match directive {
            'Y' => self.year.to_string(),
            'y' => number(self.year.rem_euclid(100), 2),
            'm' => number(self.month as i64, 2),
            'B' => month.into(),
            'b' | 'h' => month[..3].into(),
            'd' => number(self.day, 2),
            'e' => format!("{:2}", self.day),
            'j' => number(self.day_of_year, 3),
            'A' => day.into(),
            'a' => day[..3].into(),
            'u' => ((self.weekday + 6) % 7 + 1).to_string(),
            'w' => self.weekday.to_string(),
            'H' => number(self.hour, 2),
            'I' => number((self.hour + 11) % 12 + 1, 2),
            'M' => number(self.minute, 2),
            'S' => number(self.second, 2),
            'p' => if self.hour < 12 { "AM" } else { "PM" }.into(),
            'F' => self.format("%Y-%m-%d").ok()?,
            'D' => self.format("%m/%d/%y").ok()?,
            'T' => self.format("%H:%M:%S").ok()?,
            'R' => self.format("%H:%M").ok()?,
            'c' => self.format("%a %b %e %H:%M:%S %Y").ok()?,
            'x' => self.format("%m/%d/%y").ok()?,
            'X' => self.format("%H:%M:%S").ok()?,
            'r' => self.format("%I:%M:%S %p").ok()?,
            'C' => number(self.year.div_euclid(100), 2),
            'k' => format!("{:2}", self.hour),
            'l' => format!("{:2}", (self.hour + 11) % 12 + 1),
            'P' => if self.hour < 12 { "am" } else { "pm" }.into(),
            // Weeks that begin on Sunday and on Monday, from 0 for the days before the first of them.
            'U' => number((self.day_of_year + 6 - self.weekday as i64) / 7, 2),
            'W' => number((self.day_of_year + 6 - (self.weekday as i64 + 6) % 7) / 7, 2),
            'G' => self.iso_week().0.to_string(),
            'g' => number(self.iso_week().0.rem_euclid(100), 2),
            'V' => number(self.iso_week().1, 2),
            'n' => "\n".into(),
            't' => "\t".into(),
            'Z' | 'z' => String::new(), // transformers formats a time without a zone, for which both are empty
            '%' => "%".into(),
            _ => return None,
        })
    }
}

impl DateTime {
    /// Year and number of the week by ISO 8601: a week belongs to the year of its Thursday.
    fn iso_week(&self) -> (i64, i64) {
        let thursday = self.day_of_year + 3 - (self.weekday as i64 + 6) % 7;
        let days = |year: i64| days_before_year(year + 1) - days_before_year(year);
        let (year, day) = match thursday {
            day if day < 1 => (self.year - 1, day + days(self.year - 1)),
            day if day > days(self.year) => (self.year + 1, day - days(self.year)),
            day => (self.year, day),
        };
        (year, (day + 6) / 7)
    }
}

/// Year, month (from 1) and day of the day that is `days` after 1970-01-01.
fn civil(days: i64) -> (i64, usize, i64) {
    let mut year = 1970 + days.div_euclid(366); // never too late for days ≥ 0; corrected below
    while days_before_year(year) > days {
        year -= 1;
    }
    while days_before_year(year + 1) <= days {
        year += 1;
    }
    let mut day = days - days_before_year(year);
    let leap = days_before_year(year + 1) - days_before_year(year) == 366;
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    (year, month + 1, day + 1)
}

/// Days from 1970-01-01 to the first of January of `year`.
fn days_before_year(year: i64) -> i64 {
    let leap_days = |y: i64| y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400);
    (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969)
}

#[cfg(test)]
mod tests {
    use super::DateTime;

    fn format(seconds: i64, format: &str) -> String {
        DateTime::from_unix(seconds).format(format).unwrap()
    }

    #[test]
    fn known_moments_have_their_civil_dates() {
        assert_eq!(format(0, "%A, %d %B %Y %H:%M:%S"), "Thursday, 01 January 1970 00:00:00");
        assert_eq!(format(-1, "%F %T"), "1969-12-31 23:59:59");
        assert_eq!(format(951_782_400, "%a %d %b %Y, day %j"), "Tue 29 Feb 2000, day 060");
        assert_eq!(format(1_735_689_599, "%Y-%m-%d is day %j"), "2024-12-31 is day 366");
        assert_eq!(format(4_107_542_400, "%d %b %Y"), "01 Mar 2100");
    }

    #[test]
    fn directives_of_templates_are_known() {
        let moment = 1_722_000_909; // 2024-07-26 13:35:09
        assert_eq!(format(moment, "%d %b %Y"), "26 Jul 2024");
        assert_eq!(format(moment, "%B %-d, %y %I:%M %p 100%%"), "July 26, 24 01:35 PM 100%");
        assert_eq!(format(moment, "%e|%-m|%w|%u|%D|%R"), "26|7|5|5|07/26/24|13:35");
    }

    #[test]
    fn weeks_and_whole_dates_are_those_of_python() {
        // What Python's `datetime.strftime` gives for each moment.
        let all = "%c|%x|%X|%r|%C|%k|%l|%P|%U|%W|%G|%g|%V";
        assert_eq!(format(1_722_000_909, all), "Fri Jul 26 13:35:09 2024|07/26/24|13:35:09|01:35:09 PM|20|13| 1|pm|29|30|2024|24|30");
        assert_eq!(format(1_104_537_600, all), "Sat Jan  1 00:00:00 2005|01/01/05|00:00:00|12:00:00 AM|20| 0|12|am|00|00|2004|04|53");
        assert_eq!(format(1_230_768_000, all), "Thu Jan  1 00:00:00 2009|01/01/09|00:00:00|12:00:00 AM|20| 0|12|am|00|00|2009|09|01");
        assert_eq!(format(1_293_839_999, all), "Fri Dec 31 23:59:59 2010|12/31/10|23:59:59|11:59:59 PM|20|23|11|pm|52|52|2010|10|52");
        assert_eq!(format(1_704_067_200, all), "Mon Jan  1 00:00:00 2024|01/01/24|00:00:00|12:00:00 AM|20| 0|12|am|00|01|2024|24|01");
        assert_eq!(format(1_735_603_200, all), "Tue Dec 31 00:00:00 2024|12/31/24|00:00:00|12:00:00 AM|20| 0|12|am|52|53|2025|25|01");
        assert_eq!(format(951_782_400, all), "Tue Feb 29 00:00:00 2000|02/29/00|00:00:00|12:00:00 AM|20| 0|12|am|09|09|2000|00|09");
    }

    #[test]
    fn an_unknown_directive_is_named() {
        assert_eq!(DateTime::from_unix(0).format("%d %Q"), Err("%Q".into()));
        assert_eq!(DateTime::from_unix(0).format("%-"), Err("%-".into()));
        assert_eq!(DateTime::from_unix(0).format("50%"), Err("%".into()));
    }
}

//! Answers that are numbers, at the end of a chain of reasoning.

/// Whether the last number in `output` is the number that `answer` gives: what follows its last `####` (as GSM8K marks it), else its
/// last number.
///
/// Numbers are compared as decimals: `1,234.50` equals `1234.5`.
pub fn same_number(output: &str, answer: &str) -> bool {
    let marked = answer.rsplit_once("####").map_or(answer, |(_, number)| number);
    last_number(marked).is_some_and(|number| last_number(output) == Some(number))
}

/// The last number in `text`, in its shortest decimal form; commas may group its thousands.
///
/// A minus sign belongs to it unless it follows a letter, a digit or a closing bracket: `10-5` ends in 5.
pub fn last_number(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let is_digit = |index: usize| bytes.get(index).is_some_and(u8::is_ascii_digit);
    let (mut at, mut last) = (0, None);
    while at < bytes.len() {
        if is_digit(at) || (bytes[at] == b'.' && is_digit(at + 1)) {
            let end = number_end(bytes, at);
            last = Some((at, end));
            at = end;
        } else {
            at += 1;
        }
    }
    let (start, end) = last?;
    let negative = is_minus(&text[..start]);
    Some(canonical(&text[start..end], negative))
}

/// Where the number that begins at `start` ends: digits, groups of three after commas, and a decimal part.
fn number_end(bytes: &[u8], start: usize) -> usize {
    let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut end = start + digits(start);
    if (1..=3).contains(&(end - start)) {
        while bytes.get(end) == Some(&b',') && digits(end + 1) == 3 {
            end += 4;
        }
    }
    if bytes.get(end) == Some(&b'.') {
        let decimals = digits(end + 1);
        end += if decimals > 0 { decimals + 1 } else { 0 };
    }
    end
}

/// Whether what stands before a number ends in its sign, a currency sign aside.
fn is_minus(before: &str) -> bool {
    let before = before.strip_suffix(['$', '€', '£']).unwrap_or(before);
    let Some(before) = before.strip_suffix(['-', '\u{2212}']) else { return false };
    !before.ends_with(|c: char| c.is_alphanumeric() || ")]".contains(c))
}

fn canonical(number: &str, negative: bool) -> String {
    let number = number.replace(',', "");
    let (whole, decimals) = number.split_once('.').unwrap_or((&number, ""));
    let (whole, decimals) = (whole.trim_start_matches('0'), decimals.trim_end_matches('0'));
    let whole = if whole.is_empty() { "0" } else { whole };
    let point = if decimals.is_empty() { "" } else { "." };
    let sign = if negative && !(whole == "0" && decimals.is_empty()) { "-" } else { "" };
    format!("{sign}{whole}{point}{decimals}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_is_found_in_any_spelling() {
        let cases = [
            ("She has 3 apples, so 12.", "12"),
            ("$1,234.50 in all", "1234.5"),
            ("-7", "-7"),
            ("it is -$7.", "-7"),
            ("10-5", "5"),
            ("1,2", "2"),
            ("12,345,678 and 1234,567", "567"),
            ("0.50", "0.5"),
            ("half is .5", "0.5"),
            ("007", "7"),
            ("-0.0", "0"),
            ("3.", "3"),
            ("x\u{2212}4 \u{2212}4", "-4"),
            ("123456789012345678901", "123456789012345678901"),
        ];
        for (text, number) in cases {
            assert_eq!(last_number(text).as_deref(), Some(number), "{text}");
        }
        assert_eq!(last_number("no number"), None);
    }

    #[test]
    fn the_marked_answer_counts() {
        assert!(same_number("so 5 + 3 = 8 dollars", "5 and 3 make 8.\n#### 8"));
        assert!(same_number("The answer is 1,000.00", "#### 1000"));
        assert!(!same_number("8, then 9", "#### 8"));
        assert!(!same_number("none", "#### 8"));
        assert!(!same_number("none", "none"));
    }
}

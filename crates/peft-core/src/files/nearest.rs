//! Which existing names a missing one was probably meant to be.

/// The `count` names closest to `wanted`, the closest first.
pub fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>, count: usize) -> Vec<&'a str> {
    let mut ranked: Vec<_> = names.map(|name| (distance(wanted, name), name)).collect();
    ranked.sort_unstable();
    ranked.into_iter().take(count).map(|(_, name)| name).collect()
}

/// Edit distance, except that a name with a module prefix too many or too few counts as a match: `model.x.weight` for
/// `x.weight` is the commonest mistake, and a long prefix would drown it.
fn distance(a: &str, b: &str) -> usize {
    if is_path_suffix(a, b) || is_path_suffix(b, a) { 0 } else { levenshtein(a.as_bytes(), b.as_bytes()) }
}

fn is_path_suffix(long: &str, short: &str) -> bool {
    long.strip_suffix(short).is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('.'))
}

fn levenshtein(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_insertions_deletions_and_substitutions() {
        assert_eq!(levenshtein(b"kitten", b"sitting"), 3);
        assert_eq!(levenshtein(b"", b"abc"), 3);
        assert_eq!(levenshtein(b"abc", b"abc"), 0);
    }

    #[test]
    fn a_missing_prefix_outranks_a_similar_spelling() {
        let names = ["h.0.attn.bias", "h.0.attn.weight", "transformer.h.1.attn.weight"];
        assert_eq!(nearest("transformer.h.0.attn.weight", names.into_iter(), 2), ["h.0.attn.weight", "transformer.h.1.attn.weight"]);
    }

    #[test]
    fn a_suffix_that_cuts_a_name_in_two_is_no_match() {
        assert!(!is_path_suffix("aproj.weight", "proj.weight"));
        assert!(!is_path_suffix("x.weight", ""));
    }
}

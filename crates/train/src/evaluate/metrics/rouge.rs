//! ROUGE-L: the longest common subsequence of words (Lin 2004), as google-research's rouge-score computes it without a stemmer.

/// F-measure of the longest common subsequence of two texts' words; 0 if they have none in common.
///
/// Words are runs of `a`–`z` and digits after lower-casing; everything else separates. Words are not stemmed.
pub fn rouge_l(output: &str, reference: &str) -> f64 {
    let (output, reference) = (output.to_lowercase(), reference.to_lowercase());
    let (output, reference) = (words(&output), words(&reference));
    let common = longest_common_subsequence(&output, &reference) as f64;
    if common == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (common / output.len() as f64, common / reference.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit()).filter(|word| !word.is_empty()).collect()
}

/// Its length, by the usual table of prefixes of which two rows are kept.
fn longest_common_subsequence(a: &[&str], b: &[&str]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

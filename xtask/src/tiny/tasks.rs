//! Small text tasks for the tiny model: a pre-training mixture and a few tasks kept out of it.
//!
//! An example is one line, `<instruction>: <input> = <answer>`. The prompt runs up to and including the space after
//! the equals sign, and the completion is the answer alone; whoever trains on it adds the end-of-sequence token.
//!
//! Inputs are made of pronounceable nonsense words or of digits, so nothing in the data comes from anywhere but a
//! seed. The tasks in [`Task::HELD_OUT`] recombine skills of the mixture under instructions that the mixture never
//! shows: a model that has learned the mixture gets none of them right, yet needs little training to learn one.

use std::collections::HashSet;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const CONSONANTS: &[u8] = b"bcdfghjklmnpqrstvwxyz";
const VOWELS: &[u8] = b"aeiou";

/// Longest example in characters, prompt and completion together.
pub const MAX_EXAMPLE_CHARS: usize = 40;

/// Seed of the quickstart data.
const QUICKSTART_SEED: u64 = 17;

/// One in this many inputs belongs to the evaluation half of a split.
const EVAL_ONE_IN: u64 = 5;

/// A prompt and its completion.
pub type Example = (String, String);

/// A rule that turns a short input into a short answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// Repeat the input: `copy: bad fig = bad fig`.
    Copy,
    /// Write the letters from last to first: `reverse: badu = udab`.
    Reverse,
    /// Write the input in capitals: `upper: bad fig = BAD FIG`.
    Upper,
    /// Write each letter twice: `double: bad = bbaadd`.
    Double,
    /// Leave out the vowels: `consonants: bad fig = bd fg`.
    Consonants,
    /// Put the letters in alphabetical order: `sort: fibad = abdfi`.
    Sort,
    /// Keep the first letter of each word: `first: bad fig = b f`.
    First,
    /// Keep the last letter of each word: `last: bad fig = d g`.
    Last,
    /// Exchange two words: `swap: bad fig = fig bad`.
    Swap,
    /// Move each letter one place along the alphabet: `next: badz = cbea`.
    Next,
    /// Count the letters: `count: bad fig = 6`.
    Count,
    /// Add two numbers below twenty: `add: 12 7 = 19`.
    Add,
    /// Held out. The letters from last to first, in capitals: `mirror: badu = UDAB`.
    Mirror,
    /// Held out. The first and the last letter of each word: `ends: bado fig = bo fg`.
    Ends,
    /// Held out. Move each letter one place back in the alphabet: `previous: bad = azc`.
    Previous,
}

impl Task {
    /// The pre-training mixture; each task is drawn equally often.
    pub const PRETRAINING: [Self; 12] = [
        Self::Copy,
        Self::Reverse,
        Self::Upper,
        Self::Double,
        Self::Consonants,
        Self::Sort,
        Self::First,
        Self::Last,
        Self::Swap,
        Self::Next,
        Self::Count,
        Self::Add,
    ];

    /// Tasks that pre-training never sees. Their answers use only characters that answers of the mixture use: a
    /// character without a trained embedding is beyond the reach of an adapter on the linear layers.
    pub const HELD_OUT: [Self; 3] = [Self::Mirror, Self::Ends, Self::Previous];

    /// The held-out task that the quickstart fine-tunes on.
    pub const QUICKSTART: Self = Self::Mirror;

    /// The word that names the task in a prompt.
    pub fn instruction(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Reverse => "reverse",
            Self::Upper => "upper",
            Self::Double => "double",
            Self::Consonants => "consonants",
            Self::Sort => "sort",
            Self::First => "first",
            Self::Last => "last",
            Self::Swap => "swap",
            Self::Next => "next",
            Self::Count => "count",
            Self::Add => "add",
            Self::Mirror => "mirror",
            Self::Ends => "ends",
            Self::Previous => "previous",
        }
    }

    /// The prompt that asks for the answer to `input`.
    pub fn prompt(self, input: &str) -> String {
        format!("{}: {input} = ", self.instruction())
    }

    /// The right answer to `input`.
    pub fn answer(self, input: &str) -> String {
        match self {
            Self::Copy => input.to_owned(),
            Self::Reverse => input.chars().rev().collect(),
            Self::Upper => input.to_ascii_uppercase(),
            Self::Double => input.chars().flat_map(|c| [c, c]).collect(),
            Self::Consonants => input.chars().filter(|&c| !is_vowel(c)).collect(),
            Self::Sort => sorted(input),
            Self::First => each_word(input, |word| word.chars().next().into_iter().collect()),
            Self::Last => each_word(input, |word| word.chars().last().into_iter().collect()),
            Self::Swap => input.split(' ').rev().collect::<Vec<_>>().join(" "),
            Self::Next => input.chars().map(|c| shift(c, 1)).collect(),
            Self::Count => input.chars().filter(|c| c.is_ascii_lowercase()).count().to_string(),
            Self::Add => input.split(' ').filter_map(|number| number.parse::<u32>().ok()).sum::<u32>().to_string(),
            Self::Mirror => input.chars().rev().map(|c| c.to_ascii_uppercase()).collect(),
            Self::Ends => each_word(input, |word| word.chars().next().into_iter().chain(word.chars().last()).collect()),
            Self::Previous => input.chars().map(|c| shift(c, 25)).collect(),
        }
    }

    /// Draws an input of the kind the task works on.
    pub fn input(self, rng: &mut ChaCha8Rng) -> String {
        match self {
            Self::Reverse | Self::Sort | Self::Double | Self::Next | Self::Mirror | Self::Previous => word(rng, 3),
            Self::Copy | Self::Upper | Self::Consonants | Self::Count => {
                let words = rng.random_range(1..=2);
                phrase(rng, words, 2)
            }
            Self::Swap => phrase(rng, 2, 2),
            Self::First | Self::Last | Self::Ends => {
                let words = rng.random_range(2..=3);
                phrase(rng, words, 2)
            }
            Self::Add => format!("{} {}", number(rng), number(rng)),
        }
    }
}

/// Draws one example of `task`: its prompt and its completion.
pub fn example(task: Task, rng: &mut ChaCha8Rng) -> Example {
    let input = task.input(rng);
    (task.prompt(&input), task.answer(&input))
}

/// Draws one example of the pre-training mixture.
pub fn pretraining_example(rng: &mut ChaCha8Rng) -> Example {
    let task = Task::PRETRAINING[rng.random_range(0..Task::PRETRAINING.len())];
    example(task, rng)
}

/// Training and evaluation examples of the quickstart task; see [`split`].
pub fn quickstart_data(n_train: usize, n_eval: usize) -> (Vec<Example>, Vec<Example>) {
    split(Task::QUICKSTART, n_train, n_eval, QUICKSTART_SEED)
}

/// Draws `n_train` and `n_eval` different examples of `task`.
///
/// Which side an example may fall on depends on its prompt alone, so no evaluation prompt is ever a training prompt,
/// whatever the sizes and the seed. Every task has tens of thousands of inputs on each side except [`Task::Add`], which
/// has four hundred in all: the draw never ends when more examples are asked for than there are.
pub fn split(task: Task, n_train: usize, n_eval: usize, seed: u64) -> (Vec<Example>, Vec<Example>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut seen = HashSet::new();
    let (mut train, mut eval) = (Vec::with_capacity(n_train), Vec::with_capacity(n_eval));
    while train.len() < n_train || eval.len() < n_eval {
        let (prompt, completion) = example(task, &mut rng);
        let (side, wanted) = if is_eval_prompt(&prompt) { (&mut eval, n_eval) } else { (&mut train, n_train) };
        if side.len() < wanted && seen.insert(prompt.clone()) {
            side.push((prompt, completion));
        }
    }
    (train, eval)
}

/// Whether a prompt belongs to the evaluation half of a split.
pub fn is_eval_prompt(prompt: &str) -> bool {
    fnv1a(prompt.as_bytes()).is_multiple_of(EVAL_ONE_IN)
}

/// The 64-bit FNV-1a hash: stable across platforms and releases, unlike the standard library's hasher.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A nonsense word of one to `max_syllables` consonant-vowel pairs; a single pair always gets a closing consonant,
/// a longer word gets one half of the time unless it has three pairs already.
fn word(rng: &mut ChaCha8Rng, max_syllables: usize) -> String {
    let syllables = rng.random_range(1..=max_syllables);
    let mut word = String::new();
    for _ in 0..syllables {
        word.push(pick(rng, CONSONANTS));
        word.push(pick(rng, VOWELS));
    }
    if syllables == 1 || (syllables == 2 && rng.random_bool(0.5)) {
        word.push(pick(rng, CONSONANTS));
    }
    word
}

/// Some nonsense words with single spaces between them.
fn phrase(rng: &mut ChaCha8Rng, words: usize, max_syllables: usize) -> String {
    (0..words).map(|_| word(rng, max_syllables)).collect::<Vec<_>>().join(" ")
}

/// A number below twenty: few enough sums for a tiny model to learn them.
fn number(rng: &mut ChaCha8Rng) -> u32 {
    rng.random_range(0..20)
}

fn pick(rng: &mut ChaCha8Rng, set: &[u8]) -> char {
    char::from(set[rng.random_range(0..set.len())])
}

fn is_vowel(c: char) -> bool {
    c.is_ascii() && VOWELS.contains(&(c as u8))
}

fn sorted(input: &str) -> String {
    let mut letters: Vec<char> = input.chars().collect();
    letters.sort_unstable();
    letters.into_iter().collect()
}

/// Applies `rule` to each word and puts single spaces between the results.
fn each_word(input: &str, rule: impl Fn(&str) -> String) -> String {
    input.split(' ').map(rule).collect::<Vec<_>>().join(" ")
}

/// Moves a lower-case letter `places` along the alphabet, from z round to a; leaves anything else as it is.
fn shift(c: char, places: u8) -> char {
    match c {
        'a'..='z' => char::from(b'a' + (c as u8 - b'a' + places) % 26),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_tasks() -> impl Iterator<Item = Task> {
        Task::PRETRAINING.into_iter().chain(Task::HELD_OUT)
    }

    #[test]
    fn answers_follow_the_rules() {
        let cases = [
            (Task::Copy, "bad fig", "bad fig"),
            (Task::Reverse, "badu", "udab"),
            (Task::Upper, "bad fig", "BAD FIG"),
            (Task::Double, "bad", "bbaadd"),
            (Task::Consonants, "bad fig", "bd fg"),
            (Task::Sort, "fibad", "abdfi"),
            (Task::First, "bad fig", "b f"),
            (Task::Last, "bad fig", "d g"),
            (Task::Swap, "bad fig", "fig bad"),
            (Task::Next, "badz", "cbea"),
            (Task::Count, "bad fig", "6"),
            (Task::Add, "12 7", "19"),
            (Task::Mirror, "badu", "UDAB"),
            (Task::Ends, "bado fig", "bo fg"),
            (Task::Previous, "bad", "azc"),
        ];
        for (task, input, answer) in cases {
            assert_eq!(task.answer(input), answer, "{task:?}");
        }
        assert_eq!(cases.len(), all_tasks().count());
    }

    #[test]
    fn no_two_tasks_share_an_instruction() {
        let names: HashSet<_> = all_tasks().map(Task::instruction).collect();
        assert_eq!(names.len(), all_tasks().count());
    }

    #[test]
    fn examples_are_short_printable_and_never_empty() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for task in all_tasks() {
            for _ in 0..2_000 {
                let (prompt, completion) = example(task, &mut rng);
                assert!(prompt.ends_with(" = ") && !completion.is_empty(), "{prompt}{completion}");
                assert!(prompt.len() + completion.len() <= MAX_EXAMPLE_CHARS, "{prompt}{completion}");
                assert!(prompt.bytes().chain(completion.bytes()).all(|b| (b' '..=b'~').contains(&b)));
            }
        }
    }

    #[test]
    fn the_seed_decides_the_examples() {
        let draw = |seed| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            (0..50).map(|_| pretraining_example(&mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }

    #[test]
    fn every_mixture_task_is_drawn() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let drawn: HashSet<String> =
            (0..1_000).map(|_| pretraining_example(&mut rng).0.split(':').next().unwrap_or_default().to_owned()).collect();
        let mixture: HashSet<String> = Task::PRETRAINING.iter().map(|t| t.instruction().to_owned()).collect();
        assert_eq!(drawn, mixture);
    }

    #[test]
    fn splits_never_share_a_prompt() {
        for task in Task::HELD_OUT {
            let (train, _) = split(task, 500, 0, 1);
            let (_, eval) = split(task, 0, 200, 2);
            let train: HashSet<_> = train.into_iter().map(|(prompt, _)| prompt).collect();
            let eval: HashSet<_> = eval.into_iter().map(|(prompt, _)| prompt).collect();
            assert_eq!((train.len(), eval.len()), (500, 200), "{task:?}");
            assert!(train.is_disjoint(&eval), "{task:?}");
        }
    }

    #[test]
    fn the_quickstart_data_never_changes() {
        let (train, eval) = quickstart_data(64, 16);
        assert_eq!((train.len(), eval.len()), (64, 16));
        assert_eq!(quickstart_data(64, 16), (train.clone(), eval));
        assert_eq!(quickstart_data(8, 2).0[..], train[..8]);
    }

    #[test]
    fn the_hash_is_fnv1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}

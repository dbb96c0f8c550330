//! What real processes asked of the real kernel, as `scripts/storm/calls.mjs` writes it.

/// A call, or another thing that a thread did.
pub struct Line {
    /// The lines of strace's log between which it took effect,
    pub begin: u32,
    pub end: u32,
    /// and when strace wrote them, in microseconds.
    pub began: u64,
    pub ended: u64,
    pub process: usize,
    pub thread: u32,
    pub words: Vec<String>,
    /// `None`: its process was killed in it, so it took effect or not.
    pub answer: Option<String>,
}

pub fn parse(text: &str) -> Vec<Line> {
    let line = |line: &str| {
        let (call, answer) = line.rsplit_once(" = ").expect("an answer");
        let mut words = call.split(' ').map(str::to_owned);
        let mut number =
            || words.next().and_then(|word| word.parse::<u64>().ok()).expect("a number");
        let mut small = || u32::try_from(number()).expect("a small number");
        let (begin, end) = (small(), small());
        Line {
            begin,
            end,
            began: number(),
            ended: number(),
            process: usize::try_from(number()).expect("a small number"),
            thread: u32::try_from(number()).expect("a small number"),
            words: words.collect(),
            answer: (answer != "?").then(|| answer.to_owned()),
        }
    };
    text.lines().map(line).collect()
}

/// The trace that the environment names.
pub fn read() -> Vec<Line> {
    let path = std::env::var("SIMULATION_TRACE").expect("the path of a trace");
    parse(&std::fs::read_to_string(path).expect("a trace"))
}

//! What JavaScript asks of the binary, as the notes in a trace say it (`scripts/storm/notes.cjs`).

use crate::locks::{Environment, Handle, Request, Ticket};

/// What JavaScript asks for.
#[derive(Debug, Clone)]
pub enum Ask {
    /// A waiter comes to the arrivals.
    Arrive(Request),
    /// The first of the arrivals goes on to the lock.
    Admit,
    Try(Request),
    Release(Environment),
    Cancel(Environment, Ticket),
    /// An environment ends, in these steps.
    Forget(Environment),
    ReleaseAll(Environment),
    LeaveNow,
}

impl Ask {
    /// What a call of the binary on this thread asks for, one after the other; and what with each path that the thread
    /// finds. Only an acquire looks for the paths of others, too.
    pub fn of(words: &[String], thread: usize, handle: Handle) -> (Vec<Self>, Option<Self>) {
        let number = |place: usize| words[place].parse::<u64>().expect("a number");
        // The face of the lock in this thread.
        let client = thread as u64 * 100 + number(1);
        let environment = Environment(client);
        let request = |number, timeout_ms| Request {
            environment,
            ticket: Ticket { client, number },
            handle,
            session_file: "/f/s".into(),
            timeout_ms,
            stale_ms: 1_800_000,
            max_hold_ms: None,
            label: None,
            spares_foreign: false,
            allow_reentrant: false,
        };
        match words[0].as_str() {
            "acquire" => {
                let request = request(number(2), words[3].parse().ok());
                (vec![Self::Arrive(request)], Some(Self::Admit))
            }
            "tryAcquire" => (vec![], Some(Self::Try(request(0, None)))),
            "release" => (vec![Self::Release(environment)], None),
            "cancel" => {
                (vec![Self::Cancel(environment, Ticket { client, number: number(2) })], None)
            }
            "end" => (Self::end(environment).into(), None),
            other => panic!("an unknown question: {other}"),
        }
    }

    fn end(environment: Environment) -> [Self; 3] {
        [Self::Forget(environment), Self::ReleaseAll(environment), Self::LeaveNow]
    }

    /// The end of a thread of JavaScript: both faces end once more, and nobody notes that.
    pub fn end_of(thread: usize) -> Vec<Self> {
        (0..2).flat_map(|face| Self::end(Environment(thread as u64 * 100 + face))).collect()
    }

    /// What the call returns if nothing comes of it at once; `None`: that says nothing.
    pub fn outcome(words: &[String]) -> Option<&'static str> {
        matches!(words[0].as_str(), "acquire" | "tryAcquire" | "cancel").then_some("")
    }
}

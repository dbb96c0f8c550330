//! What each process does next, learnt from the shipped code.
//!
//! A process is a deterministic function of the answers that its calls have had. So its possible lives
//! form a tree: a node is a history, and knows the next call; an edge is an answer. The shipped code
//! runs once for each edge, however many states of the whole pass there. At a pause, lives that
//! remember the same are one node.

use std::collections::HashMap;

use crate::cast::Role;
use crate::kernel::{Answer, Call, Fd, Kernel, Process};
use crate::machine::{self, Event, Input, JobStand, Stand, View};
use crate::os::Trust;
use crate::replay;

pub type NodeId = u32;

pub struct Node {
    role: Role,
    parent: NodeId,
    input: Option<Input>,
    /// What it is busy with; a script with one thing.
    pub jobs: Vec<JobStand>,
    /// What else may happen in a machine.
    pub events: Vec<Event>,
    pub view: View,
    /// What a machine does with files by itself.
    pub changes: Vec<Call>,
    /// What its life is from here on, or from the pause on that it comes to.
    pub merge: Option<Merge>,
}

/// The node that stands for all that remember the same, and what its descriptors and numbers are
/// called there.
#[derive(Clone)]
pub struct Merge {
    pub to: NodeId,
    fds: Vec<(Fd, Fd)>,
    ids: Vec<(u8, u8)>,
}

/// A node that stands for others, and its names in the order of their appearance in the memory.
struct Known {
    node: NodeId,
    fds: Vec<Fd>,
    ids: Vec<u8>,
}

/// A memory, with the names in it.
struct Memory {
    text: String,
    fds: Vec<Fd>,
    ids: Vec<u8>,
}

pub struct Scripts {
    pub nodes: Vec<Node>,
    edges: HashMap<(NodeId, Input), NodeId>,
    roots: HashMap<Role, NodeId>,
    known: HashMap<(Role, String), Known>,
    trust: Trust,
}

const NO_PARENT: NodeId = NodeId::MAX;

impl Scripts {
    pub fn new(trust: Trust) -> Self {
        Self {
            nodes: Vec::new(),
            edges: HashMap::new(),
            roots: HashMap::new(),
            known: HashMap::new(),
            trust,
        }
    }

    pub fn root(&mut self, role: Role) -> NodeId {
        if let Some(&root) = self.roots.get(&role) {
            return root;
        }
        let root = self.grow(role, NO_PARENT, None);
        self.roots.insert(role, root);
        root
    }

    pub fn next(&mut self, node: NodeId, input: Input) -> NodeId {
        if let Some(&next) = self.edges.get(&(node, input)) {
            return next;
        }
        let next = self.grow(self.node(node).role, node, Some(input));
        self.edges.insert((node, input), next);
        next
    }

    pub fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node as usize]
    }

    fn grow(&mut self, role: Role, parent: NodeId, input: Option<Input>) -> NodeId {
        let mut history: Vec<_> = input.into_iter().collect();
        let mut at = parent;
        while at != NO_PARENT {
            history.extend(self.node(at).input);
            at = self.node(at).parent;
        }
        history.reverse();
        if let Role::Machine(acquires) = role {
            let stand = machine::run(acquires, &history, role.trust(self.trust));
            return self.grow_machine(role, parent, input, stand);
        }
        let answers = history.into_iter().map(|input| match input {
            Input::Answer(_, answer) => answer,
            Input::Event(_) => Answer::Go(true), // none comes to a script
        });
        let script = replay::replay(|| role.play(), answers.collect(), role.trust(self.trust));
        let call = script.call;
        let jobs = vec![JobStand { before: script.before, call, is_stopped: false }];
        let id = self.add(Node::new(role, parent, input, jobs));
        if matches!(call, Call::Pause(_)) {
            let memory = Memory { text: script.memory, fds: script.fds, ids: script.ids };
            self.merge_pause(id, memory);
        }
        id
    }

    fn grow_machine(
        &mut self,
        role: Role,
        parent: NodeId,
        input: Option<Input>,
        stand: Stand,
    ) -> NodeId {
        let Stand { jobs, events, view, changes, memory, fds, ids } = stand;
        let node = Node { events, view, changes, ..Node::new(role, parent, input, jobs) };
        let id = self.add(node);
        self.merge(id, Memory { text: memory, fds, ids }, id);
        id
    }

    fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId::try_from(self.nodes.len() - 1).expect("fewer nodes than that")
    }

    /// What comes after a pause begins at a node of its own, where everything is closed.
    fn merge_pause(&mut self, id: NodeId, memory: Memory) {
        let (role, call) = (self.node(id).role, self.node(id).jobs[0].call);
        let jobs = vec![JobStand { before: Vec::new(), call, is_stopped: false }];
        let after = match self.known.get(&(role, memory.text.clone())) {
            Some(known) => known.node,
            None => self.add(Node::new(role, id, None, jobs)),
        };
        self.merge(id, memory, after);
    }

    /// Notes which node stands for all that remember this: `stand_in`, if it is the first.
    fn merge(&mut self, id: NodeId, memory: Memory, stand_in: NodeId) {
        let role = self.node(id).role;
        let Memory { text, fds, ids } = memory;
        let known = self.known.entry((role, text)).or_insert_with(|| Known {
            node: stand_in,
            fds: fds.clone(),
            ids: ids.clone(),
        });
        let pairs = |ours: Vec<u8>, theirs: &[u8]| ours.into_iter().zip(theirs.to_vec()).collect();
        let merge =
            Merge { to: known.node, fds: pairs(fds, &known.fds), ids: pairs(ids, &known.ids) };
        self.nodes[id as usize].merge = Some(merge);
    }
}

impl Node {
    fn new(role: Role, parent: NodeId, input: Option<Input>, jobs: Vec<JobStand>) -> Self {
        let (events, changes) = (Vec::new(), Vec::new());
        Self { role, parent, input, jobs, events, view: View::default(), changes, merge: None }
    }
}

impl Merge {
    /// Gives what process `p` has and remembers the names that they have in the node.
    pub fn apply(&self, kernel: &mut Kernel, p: usize) {
        let before = kernel.processes[p];
        let mut process =
            Process { fds: Process::default().fds, ids: Process::default().ids, ..before };
        for &(from, to) in &self.fds {
            process.fds[to as usize] = before.fds[from as usize];
        }
        let count = |process: &Process| process.fds.iter().filter(|open| open.ino != 0).count();
        assert_eq!(count(&before), count(&process), "a process hides an open file");
        for &(from, to) in &self.ids {
            process.ids[to as usize] = before.ids[from as usize];
        }
        kernel.rename_waiters(p, &self.fds);
        kernel.processes[p] = process;
        kernel.forget_numbers();
    }
}

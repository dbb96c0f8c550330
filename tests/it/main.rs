//! The lock without Node: real files in a temporary folder, real threads and flocks.
//!
//! Two open descriptions of one lock file exclude each other whether they are in one process or in
//! two, so threads stand in for processes here where neither pids nor deaths matter. What needs
//! processes that die, namespaces or mounts is tested from Node, in `__test__`.

mod corpus;
mod foreign;
mod locks;
mod protocol;
mod queue;
mod record;
mod seam;
mod support;
mod verdict;

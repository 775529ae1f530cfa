//! Requests, replies, one-way messages, streams and deadlines between nodes, as a pure protocol.

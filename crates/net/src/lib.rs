//! The network framework: event loop, timers, buffers, connections, server and client.

//! ws-ipc

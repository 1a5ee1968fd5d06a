//! Small apps that use supermachine.

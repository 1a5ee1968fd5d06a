//! The stores, images and machines of test-support.

#![allow(unused_imports, reason = "each test program uses a part of it")]

pub(crate) use supermachine_test_support::machines::*;

//! Seven services on one vCPU: each answers after every restore. In an ordinary run the large ones are
//! tried with sixteen vCPUs only.

mod services;

use services::{httpd, memcached, nginx, node, postgres, python, redis};
use supermachine_test_support::machines::scaled;

const VCPUS: u16 = 1;
const RESTORES: u32 = 100;
/// Restores of nginx in an ordinary run: a request to it takes far longer than a restore.
const USUAL: u32 = 20;

#[test]
fn nginx_answers_after_every_restore() {
    nginx(VCPUS, scaled(RESTORES, USUAL));
}

#[test]
#[ignore = "long: runs with SUPERMACHINE_TEST_FULL"]
fn httpd_answers_after_every_restore() {
    httpd(VCPUS, RESTORES);
}

#[test]
fn redis_answers_after_every_restore() {
    redis(VCPUS, RESTORES);
}

#[test]
fn memcached_answers_after_every_restore() {
    memcached(VCPUS, RESTORES);
}

#[test]
#[ignore = "long: runs with SUPERMACHINE_TEST_FULL"]
fn python_answers_after_every_restore() {
    python(VCPUS, RESTORES);
}

#[test]
#[ignore = "long: runs with SUPERMACHINE_TEST_FULL"]
fn node_answers_after_every_restore() {
    node(VCPUS, RESTORES);
}

#[test]
#[ignore = "long: runs with SUPERMACHINE_TEST_FULL"]
fn postgres_answers_after_every_restore() {
    postgres(VCPUS, RESTORES);
}

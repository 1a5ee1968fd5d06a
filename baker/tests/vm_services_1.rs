//! Seven services on one vCPU: each answers after every restore.

mod services;

use services::{httpd, memcached, nginx, node, postgres, python, redis};
use supermachine_test_support::machines::scaled;

const VCPUS: u16 = 1;
const RESTORES: u32 = 100;
/// Restores of the larger services in an ordinary run: a request to them takes far longer than a
/// restore.
const USUAL: u32 = 20;
/// Node is the slowest.
const USUAL_OF_NODE: u32 = 5;

#[test]
fn nginx_answers_after_every_restore() {
    nginx(VCPUS, RESTORES);
}

#[test]
fn httpd_answers_after_every_restore() {
    httpd(VCPUS, scaled(RESTORES, USUAL));
}

#[test]
fn redis_answers_after_every_restore() {
    redis(VCPUS, RESTORES);
}

#[test]
fn memcached_answers_after_every_restore() {
    memcached(VCPUS, scaled(RESTORES, USUAL));
}

#[test]
fn python_answers_after_every_restore() {
    python(VCPUS, scaled(RESTORES, USUAL));
}

#[test]
fn node_answers_after_every_restore() {
    node(VCPUS, scaled(RESTORES, USUAL_OF_NODE));
}

#[test]
fn postgres_answers_after_every_restore() {
    postgres(VCPUS, scaled(RESTORES, USUAL));
}

//! Seven services in machines of eight vCPUs: each answers after each of its restores.

#[path = "support/services.rs"]
mod services;
mod support;

use services::{httpd, memcached, nginx, node, postgres, python, redis};
use support::scaled;

const VCPUS: u16 = 8;
const RESTORES: u32 = 20;
const USUAL_RESTORES: u32 = 3;

fn restores() -> u32 {
    scaled(RESTORES, USUAL_RESTORES)
}

#[test]
fn nginx_answers_after_every_restore() {
    nginx(VCPUS, restores());
}

#[test]
fn httpd_answers_after_every_restore() {
    httpd(VCPUS, restores());
}

#[test]
fn redis_answers_after_every_restore() {
    redis(VCPUS, restores());
}

#[test]
fn memcached_answers_after_every_restore() {
    memcached(VCPUS, restores());
}

#[test]
fn python_answers_after_every_restore() {
    python(VCPUS, restores());
}

#[test]
fn node_answers_after_every_restore() {
    node(VCPUS, restores());
}

#[test]
fn postgres_answers_after_every_restore() {
    postgres(VCPUS, restores());
}

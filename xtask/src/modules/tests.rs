use std::fs;

use super::*;

/// Writes a made-up crate and returns the graph of its modules.
fn graph(files: &[(&str, &str)]) -> Graph {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    Graph::of_modules(&Tree::read(&folder.path().join("lib.rs")).unwrap())
}

fn arrows(graph: &Graph) -> Vec<String> {
    let lines = graph.arrows().filter(|(_, to)| !to.is_empty());
    lines.map(|(from, to)| format!("{} → {}", label(from), to.join(", "))).collect()
}

fn shortest(graph: &Graph) -> Vec<&str> {
    let knots = graph.knots();
    assert_eq!(knots.len(), 1, "{knots:?}");
    graph.shortest_circle(knots.first().unwrap()).into_iter().map(|(name, _)| name).collect()
}

#[test]
fn modules_that_import_each_other_are_a_circle() {
    let graph = graph(&[
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "use crate::b::{B, other as renamed};\npub struct A(B);"),
        ("b.rs", "pub struct B; pub fn other() -> super::a::A { loop {} }"),
        ("c.rs", "use crate::a::A;"),
    ]);
    assert_eq!(arrows(&graph), ["a → b", "b → a", "c → a"]);
    assert_eq!(shortest(&graph), ["a", "b"]);
}

#[test]
fn circle_names_the_file_and_line_of_each_arrow() {
    let graph = graph(&[
        ("lib.rs", "mod a { pub struct A;\nfn f() { crate::b::g() } }\nmod b;"),
        ("b.rs", "\n\npub fn g() -> crate::a::A { loop {} }"),
    ]);
    let knots = graph.knots();
    let line = circle(&graph, knots.first().unwrap(), "modules");
    assert_eq!(line, "circle of 2 modules: a (lib.rs:2) → b (b.rs:3) → a");
}

#[test]
fn shortest_of_several_circles_is_shown() {
    let graph = graph(&[
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "use crate::b::B; pub struct A;"),
        ("b.rs", "use crate::c::C; pub struct B;"),
        ("c.rs", "use crate::a::A; use crate::b::B; pub struct C;"),
    ]);
    assert_eq!(shortest(&graph), ["b", "c"]);
}

#[test]
fn parent_that_only_reexports_is_no_part_of_a_circle() {
    let graph = graph(&[
        ("lib.rs", "mod a;"),
        ("a/mod.rs", "mod x; mod y; pub use x::X; pub(crate) use self::y::*;"),
        ("a/x.rs", "use super::Y; pub struct X(Y);"),
        ("a/y.rs", "pub struct Y;"),
    ]);
    assert_eq!(arrows(&graph), ["a::x → a::y"]);
}

#[test]
fn parent_that_uses_what_it_reexports_is_part_of_a_circle() {
    let graph = graph(&[
        ("lib.rs", "mod a;"),
        ("a/mod.rs", "mod x; pub use x::X; pub struct A(X);"),
        ("a/x.rs", "use super::A; pub struct X(Box<A>);"),
    ]);
    assert_eq!(shortest(&graph), ["a", "a::x"]);
}

#[test]
fn names_are_followed_through_reexports_and_imported_modules() {
    let graph = graph(&[
        ("lib.rs", "mod a; mod b; pub use a::A;"),
        ("a/mod.rs", "pub mod deep; pub use deep::A;"),
        ("a/deep.rs", "pub struct A; pub fn f() {}"),
        ("b.rs", "use crate::{A, a}; fn g(_: A) { a::deep::f() }"),
    ]);
    assert_eq!(arrows(&graph), ["b → a::deep"]);
}

#[test]
fn code_for_tests_does_not_count() {
    let graph = graph(&[
        ("lib.rs", "mod a; mod b;"),
        (
            "a.rs",
            "#[cfg(test)] mod tests;
            #[cfg(test)] use crate::b::{B, C};
            #[cfg(all(test, unix))] pub(crate) fn f<A, D>(_: crate::b::B) {}
            struct S { #[cfg(test)] #[doc = \"d\"] pub field: crate::b::B, other: u8 }
            #[cfg(test)] impl S { fn g() -> crate::b::B { loop {} } }
            pub struct A;",
        ),
        ("b.rs", "use crate::a::A; pub struct B; /// [`A`](crate::a::A)\npub struct C(A);"),
    ]);
    assert_eq!(arrows(&graph), ["b → a"]);
}

#[test]
fn code_that_is_not_for_tests_counts() {
    let graph = graph(&[
        ("lib.rs", "mod a; mod b;"),
        (
            "a.rs",
            "#[cfg(not(test))] use crate::b::B; #[cfg(test)] fn f() {} fn g(_: super::b::C) {}",
        ),
        ("b.rs", "pub struct B; pub struct C;"),
    ]);
    assert_eq!(arrows(&graph), ["a → b"]);
}

#[test]
fn paths_in_macros_and_attributes_count() {
    let graph = graph(&[
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "fn f() { println!(\"{}\", crate::b::value()) }"),
        ("b.rs", "pub fn value() -> u8 { 0 }"),
        ("c.rs", "struct C { #[arg(value_parser = crate::b::value)] c: u8 }"),
    ]);
    assert_eq!(arrows(&graph), ["a → b", "c → b"]);
}

#[test]
fn strings_and_comments_do_not_count() {
    let graph = graph(&[
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "// crate::b::B\nconst TEXT: &str = \"crate::b::B\"; /* super::b::B */"),
        ("b.rs", "pub struct B;"),
    ]);
    assert!(arrows(&graph).is_empty());
}

#[test]
fn file_elsewhere_and_variants_for_platforms_are_read() {
    let graph = graph(&[
        (
            "lib.rs",
            "#[cfg(unix)] #[path = \"sys/unix.rs\"] mod sys;
            #[cfg(not(unix))] #[path = \"sys/other.rs\"] mod sys; mod a;",
        ),
        ("sys/unix.rs", "mod deep; use crate::a::A;"),
        ("sys/deep.rs", "use crate::a::A;"),
        ("sys/other.rs", "use crate::a::A;"),
        ("a.rs", "pub struct A;"),
    ]);
    assert_eq!(arrows(&graph), ["sys → a", "sys::deep → a"]);
}

#[test]
fn folders_that_name_each_other_are_a_circle_of_folders_only() {
    let modules = graph(&[
        ("lib.rs", "mod a; mod b;"),
        ("a/mod.rs", "pub mod x; pub mod y;"),
        ("a/x.rs", "use crate::b::z::Z;"),
        ("a/y.rs", "pub struct Y;"),
        ("b/mod.rs", "pub mod z; pub mod w;"),
        ("b/z.rs", "pub struct Z;"),
        ("b/w.rs", "use crate::a::y::Y;"),
    ]);
    assert!(modules.knots().is_empty());
    assert_eq!(shortest(&modules.of_folders()), ["a", "b"]);
}

#[test]
fn import_in_a_circle_of_names_does_not_hang() {
    let graph = graph(&[
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "pub use super::b::Name; pub use super::b::*;"),
        ("b.rs", "pub use super::a::Name; pub use super::a::*;"),
    ]);
    assert_eq!(shortest(&graph), ["a", "b"]);
}

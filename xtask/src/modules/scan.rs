//! Finds the declarations, imports and paths in a module's tokens.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

use super::module::{Declared, Import, Module, Named};

/// Keywords that are followed by the name of an item.
const ITEMS: &[&str] = &["const", "enum", "fn", "static", "struct", "trait", "type", "union"];
/// Keywords that an item may start with.
const STARTS: &[&str] = &["async", "extern", "impl", "macro_rules", "mod", "unsafe", "use"];

/// Adds what `tokens` define and name to `module`, and returns the modules they declare.
pub(super) fn module(tokens: TokenStream, module: &mut Module) -> Vec<Declared> {
    let mut scan = Scan { module, declared: Vec::new() };
    scan.walk(&tokens.into_iter().collect::<Vec<_>>(), true);
    scan.declared
}

struct Scan<'a> {
    module: &'a mut Module,
    declared: Vec<Declared>,
}

/// What the attributes before an item say of it.
#[derive(Default)]
struct Attributes {
    is_test: bool,
    path: Option<String>,
}

impl Scan<'_> {
    /// Walks over one level of tokens; `is_top` where items belong to the module itself.
    fn walk(&mut self, tokens: &[TokenTree], is_top: bool) {
        let mut rest = tokens;
        let mut is_public = false;
        let mut attributes = Attributes::default();
        let mut after_dot = false;
        while let Some((first, tail)) = rest.split_first() {
            let was_public = std::mem::take(&mut is_public);
            let was_after_dot = std::mem::take(&mut after_dot);
            rest = match first {
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    let behind = self.attribute(tail, &mut attributes);
                    if attributes.is_test {
                        attributes = Attributes::default();
                        after_item(behind)
                    } else {
                        behind
                    }
                }
                TokenTree::Ident(word) if word == "pub" => {
                    is_public = true;
                    match tail.split_first() {
                        Some((TokenTree::Group(g), behind)) if is_scope(g) => behind,
                        _ => tail,
                    }
                }
                TokenTree::Ident(word) if word == "use" => {
                    let end = position(tail, ';');
                    let (tree, behind) = tail.split_at(end);
                    self.imports(tree, &[], was_public);
                    attributes = Attributes::default();
                    behind
                }
                TokenTree::Ident(word) if word == "mod" && is_top => {
                    let attributes = std::mem::take(&mut attributes);
                    self.declaration(tail, attributes)
                }
                TokenTree::Ident(word) => {
                    let text = word.to_string();
                    let line = word.span().start().line;
                    attributes = Attributes::default();
                    if is_top {
                        self.item(&text, tail);
                    }
                    self.path(text, line, was_after_dot, tail)
                }
                TokenTree::Group(group) => {
                    self.walk(&inside(group), false);
                    tail
                }
                TokenTree::Punct(punct) => {
                    after_dot = punct.as_char() == '.';
                    tail
                }
                TokenTree::Literal(_) => tail,
            };
        }
    }

    /// Reads the attribute behind a `#`, and returns the tokens behind it.
    fn attribute<'a>(&mut self, tail: &'a [TokenTree], to: &mut Attributes) -> &'a [TokenTree] {
        let (is_inner, tail) = match tail.split_first() {
            Some((TokenTree::Punct(p), behind)) if p.as_char() == '!' => (true, behind),
            _ => (false, tail),
        };
        let Some((TokenTree::Group(group), behind)) = tail.split_first() else { return tail };
        let tokens = inside(group);
        match tokens.as_slice() {
            [TokenTree::Ident(name), ..] if name == "doc" => {}
            [TokenTree::Ident(name), TokenTree::Group(of)] if name == "cfg" => {
                to.is_test |= !is_inner && is_for_tests(&inside(of));
            }
            [TokenTree::Ident(name), _, TokenTree::Literal(text)] if name == "path" => {
                to.path = Some(text.to_string().trim_matches('"').to_owned());
            }
            _ => self.walk(&tokens, false),
        }
        behind
    }

    /// Reads the declaration behind a `mod`.
    fn declaration<'a>(&mut self, tail: &'a [TokenTree], of: Attributes) -> &'a [TokenTree] {
        let [TokenTree::Ident(name), end, behind @ ..] = tail else { return tail };
        let body = match end {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                Some(group.stream())
            }
            _ => None,
        };
        self.declared.push(Declared { name: name.to_string(), path: of.path, body });
        behind
    }

    /// Notes the item that a keyword introduces.
    fn item(&mut self, word: &str, tail: &[TokenTree]) {
        let name = match tail {
            [TokenTree::Punct(_), TokenTree::Ident(name), ..] if word == "macro_rules" => name,
            [TokenTree::Ident(name), ..] if ITEMS.contains(&word) => name,
            _ => return,
        };
        self.module.items.insert(name.to_string());
    }

    /// Reads a path that starts with `first`, and returns the tokens behind it.
    fn path<'a>(
        &mut self,
        first: String,
        line: usize,
        after_dot: bool,
        tail: &'a [TokenTree],
    ) -> &'a [TokenTree] {
        let mut segments = vec![first];
        let mut rest = tail;
        while let Some(behind) = after_colons(rest) {
            let Some((TokenTree::Ident(word), behind)) = behind.split_first() else { break };
            segments.push(word.to_string());
            rest = behind;
        }
        match segments.len() {
            1 if !after_dot => self.module.words.extend(segments),
            1 => {}
            _ => self.module.paths.push(Named { segments, line }),
        }
        rest
    }

    /// Reads a tree of imports below `prefix`: `a::{b, c::*, d as e}`.
    fn imports(&mut self, tree: &[TokenTree], prefix: &[String], is_reexport: bool) {
        for branch in tree.split(|token| is_punct(token, ',')) {
            let mut segments = prefix.to_vec();
            let mut name = None;
            let mut line = 0;
            let mut rest = branch;
            while let Some((first, tail)) = rest.split_first() {
                rest = tail;
                match first {
                    TokenTree::Ident(word) if word == "as" => {
                        name = tail.first().map(ToString::to_string);
                        break;
                    }
                    TokenTree::Ident(word) => {
                        line = word.span().start().line;
                        segments.push(word.to_string());
                    }
                    TokenTree::Group(group) => {
                        self.imports(&inside(group), &segments, is_reexport);
                        segments.clear();
                    }
                    TokenTree::Punct(punct) if punct.as_char() == '*' => {
                        line = punct.span().start().line;
                        name = Some("*".to_owned());
                    }
                    _ => {}
                }
            }
            // `a::{self}` imports `a`.
            if segments.len() > 1 && segments.last().is_some_and(|word| word == "self") {
                segments.pop();
            }
            if segments.is_empty() {
                continue;
            }
            let name = name.or_else(|| segments.last().cloned()).filter(|name| name != "*");
            let path = Named { segments, line };
            self.module.imports.push(Import { name, path, is_reexport });
        }
    }
}

/// Whether a condition holds in tests only: `test`, or `all(…)` with it.
fn is_for_tests(condition: &[TokenTree]) -> bool {
    match condition {
        [TokenTree::Ident(word)] => word == "test" || word == "doctest",
        [TokenTree::Ident(word), TokenTree::Group(of)] if word == "all" => {
            inside(of).split(|token| is_punct(token, ',')).any(is_for_tests)
        }
        _ => false,
    }
}

/// The tokens behind the item, field, arm or statement that `tokens` start with.
fn after_item(tokens: &[TokenTree]) -> &[TokenTree] {
    let mut rest = tokens;
    let mut first = None;
    while let Some((token, tail)) = rest.split_first() {
        rest = tail;
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                // Another attribute of the same item.
                rest = tail.split_first().map_or(tail, |(_, behind)| behind);
            }
            TokenTree::Ident(word) if first.is_none() && word != "pub" => {
                first = Some(word.to_string());
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => return rest,
            TokenTree::Punct(punct) if punct.as_char() == ',' => {
                let is_item = |word: &str| STARTS.contains(&word) || ITEMS.contains(&word);
                // A comma may separate an item's generics.
                if !first.as_deref().is_some_and(is_item) {
                    return rest;
                }
            }
            TokenTree::Group(group)
                if group.delimiter() == Delimiter::Brace && first.as_deref() != Some("use") =>
            {
                return rest;
            }
            _ => {}
        }
    }
    rest
}

fn position(tokens: &[TokenTree], of: char) -> usize {
    tokens.iter().position(|token| is_punct(token, of)).unwrap_or(tokens.len())
}

fn is_punct(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == wanted)
}

/// Whether the parentheses behind a `pub` limit it, and are not a tuple field's type.
fn is_scope(group: &Group) -> bool {
    const SCOPES: [&str; 4] = ["crate", "super", "self", "in"];
    let first = group.stream().into_iter().next();
    group.delimiter() == Delimiter::Parenthesis
        && matches!(first, Some(TokenTree::Ident(word)) if SCOPES.iter().any(|s| word == s))
}

fn inside(group: &Group) -> Vec<TokenTree> {
    group.stream().into_iter().collect()
}

/// The tokens behind a `::`, if `tokens` start with one.
fn after_colons(tokens: &[TokenTree]) -> Option<&[TokenTree]> {
    match tokens {
        [first, second, behind @ ..] if is_punct(first, ':') && is_punct(second, ':') => {
            Some(behind)
        }
        _ => None,
    }
}

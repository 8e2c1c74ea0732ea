//! Prompts that change on the way, in AUTOMATIC1111's grammar
//! (`modules/prompt_parser.py`, version 1.10).
//!
//! `[a:b:WHEN]` is `a` first and `b` later, `[a::WHEN]` goes, `[b:WHEN]` comes;
//! `[a|b|c]` takes turns; both may hold each other, brackets of weight, and
//! nothing. A `WHEN` with a point is a share of the way, one without counts the
//! UNet's calls. `\[ \] \( \) \: \| \\` are text.
//!
//! What does not fit is text, as there: an edit with a bracket or a colon too many,
//! a bracket left open. A `|` outside of `[a|b]`, and a backslash before nothing or
//! a line's end, make the whole prompt text. Where a bracket too many leaves several
//! readings, that program picks one by chance (its parser's sets are ordered by
//! Python's hash seed); here every edit that can be one is one.

use std::collections::BTreeSet;
use std::ops::Range;

/// The calls of the UNet that a prompt's edits count in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeline {
    /// Calls of the whole way: what a share is of.
    pub calls: usize,
    /// For a second pass, the calls of the first: its whole numbers go on from
    /// there, its shares from 1 to 2.
    pub before: Option<usize>,
}

/// A prompt over a run: what it says up to which call, in order, at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule(Vec<(usize, String)>);

impl Schedule {
    /// A prompt that says the same all the way.
    pub fn constant(prompt: &str) -> Self {
        Schedule(vec![(usize::MAX, prompt.to_owned())])
    }

    /// Every stretch: the last call by AUTOMATIC1111's count, and the text.
    pub fn stretches(&self) -> &[(usize, String)] {
        &self.0
    }

    /// What the prompt says at call `k`, the first being 0.
    ///
    /// That program counts calls from 0 and stretches from 1, so that the first
    /// stretch is a call longer than its number: `[a:b:5]` is `b` from the seventh
    /// call on, and `[a|b]` is `a`, `a`, `b`, `a`, `b` (its issue 7279; prompts made
    /// with it depend on it). Beyond the last stretch the first is back.
    pub fn at(&self, k: usize) -> &str {
        let found = self.0.iter().find(|(last, _)| k <= *last);
        found.or(self.0.first()).map_or("", |(_, text)| text)
    }
}

/// Reads a prompt's edits. Work and memory are proportional to the prompt's length,
/// times the calls where it changes at every one.
pub fn schedule(prompt: &str, timeline: Timeline) -> Schedule {
    let calls = timeline.calls.max(1);
    let Some(tree) = Tree::parse(prompt) else {
        return Schedule(vec![(calls, prompt.to_owned())]);
    };
    let mut ends = BTreeSet::from([calls]);
    for node in &tree.nodes {
        match node {
            Node::Text(_) => {}
            Node::Edit { when, .. } => {
                ends.extend(Some(when.call(timeline)).filter(|call| *call >= 1));
            }
            Node::Turns(_) => ends.extend(1..=calls),
        }
    }
    Schedule(
        ends.into_iter()
            .map(|call| (call, tree.text(prompt, call, timeline)))
            .collect(),
    )
}

/// Whether a prompt's edits are text only because of a `|` or a backslash elsewhere.
pub fn is_taken_literally(prompt: &str) -> bool {
    // What such an edit looks like: something in brackets with `:` or `|`.
    let mut depth = 0usize;
    let mut escaped = false;
    let edits = prompt.chars().any(|c| {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            ':' | '|' => return depth > 0,
            _ => {}
        }
        false
    });
    edits && Tree::parse(prompt).is_none()
}

/// A number as it is written.
#[derive(Debug, Clone, Copy, PartialEq)]
struct When {
    value: f64,
    /// It has a point.
    share: bool,
}

impl When {
    /// The number in `text`, with spaces around it.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim_matches(is_space);
        // What Rust reads beyond the grammar's numbers has letters: inf, nan.
        let digits = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
        let value = text.parse().ok().filter(|_| text.chars().all(digits))?;
        Some(Self {
            value,
            share: text.contains('.'),
        })
    }

    /// The last call before the change, rounded down; 0 where it came before.
    fn call(self, Timeline { calls, before }: Timeline) -> usize {
        let call = match (self.share, before) {
            (true, None) => self.value * calls as f64,
            (true, Some(_)) => (self.value - 1.0) * calls as f64,
            (false, before) => self.value - before.unwrap_or(0) as f64,
        };
        // Saturates; what is below zero is 0.
        (call as usize).min(calls)
    }
}

/// Python's `\s`.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// A row of nodes by their places, in order.
type Row = Vec<usize>;

enum Node {
    /// Bytes of the prompt.
    Text(Range<usize>),
    Edit {
        before: Row,
        after: Row,
        when: When,
    },
    Turns(Vec<Row>),
}

/// A prompt's parts. Rows refer to nodes by number, so that brackets may be as deep
/// as they like.
struct Tree {
    nodes: Vec<Node>,
    root: Row,
}

/// A bracket that is open.
struct Open {
    at: usize,
    /// What is between the separators.
    parts: Vec<Row>,
    /// Where they are.
    separators: Vec<usize>,
}

impl Tree {
    /// `None` where the whole prompt is text.
    fn parse(prompt: &str) -> Option<Self> {
        let mut reader = Reader {
            prompt,
            tree: Tree {
                nodes: Vec::new(),
                root: Row::new(),
            },
            open: Vec::new(),
        };
        let mut chars = prompt.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => {
                    let (_, next) = chars.next().filter(|(_, c)| *c != '\n')?;
                    reader.text(at..at + 1 + next.len_utf8());
                }
                '(' | '[' => reader.open.push(Open {
                    at,
                    parts: vec![Row::new()],
                    separators: Vec::new(),
                }),
                ')' | ']' => reader.close(at, c)?,
                ':' => match reader.open.last_mut() {
                    Some(open) => open.separate(at),
                    None => reader.text(at..at + 1),
                },
                '|' => reader
                    .open
                    .last_mut()
                    .filter(|open| prompt[open.at..].starts_with('['))?
                    .separate(at),
                c => reader.text(at..at + c.len_utf8()),
            }
        }
        reader.give_up()?;
        Some(reader.tree)
    }

    /// What it says where `call` ends a stretch.
    fn text(&self, prompt: &str, call: usize, timeline: Timeline) -> String {
        let mut text = String::new();
        let mut rows = vec![self.root.iter()];
        while let Some(row) = rows.last_mut() {
            let Some(node) = row.next() else {
                rows.pop();
                continue;
            };
            match &self.nodes[*node] {
                Node::Text(range) => text.push_str(&prompt[range.clone()]),
                Node::Edit {
                    before,
                    after,
                    when,
                } => rows.push(match call <= when.call(timeline) {
                    true => before.iter(),
                    false => after.iter(),
                }),
                Node::Turns(all) => rows.push(all[(call - 1) % all.len()].iter()),
            }
        }
        text
    }
}

impl Open {
    fn separate(&mut self, at: usize) {
        self.separators.push(at);
        self.parts.push(Row::new());
    }
}

struct Reader<'a> {
    prompt: &'a str,
    tree: Tree,
    open: Vec<Open>,
}

impl Reader<'_> {
    /// Where what comes next goes.
    fn row(&mut self) -> &mut Row {
        match self.open.last_mut().and_then(|open| open.parts.last_mut()) {
            Some(row) => row,
            None => &mut self.tree.root,
        }
    }

    fn node(&mut self, node: Node) {
        let place = self.tree.nodes.len();
        self.tree.nodes.push(node);
        self.row().push(place);
    }

    fn text(&mut self, range: Range<usize>) {
        let last = self.row().last().copied();
        match last.map(|node| &mut self.tree.nodes[node]) {
            Some(Node::Text(before)) if before.end == range.start => before.end = range.end,
            _ => self.node(Node::Text(range)),
        }
    }

    fn append(&mut self, row: Row) {
        self.row().extend(row);
    }

    /// A closing bracket; `None` where it makes the whole prompt text.
    fn close(&mut self, at: usize, bracket: char) -> Option<()> {
        let opening = if bracket == ')' { '(' } else { '[' };
        let prompt = self.prompt;
        let fits = |open: &mut Open| prompt[open.at..].starts_with(opening);
        let Some(mut open) = self.open.pop_if(fits) else {
            self.give_up()?;
            self.text(at..at + 1);
            return Some(());
        };
        let marks: String = open
            .separators
            .iter()
            .map(|at| &prompt[*at..at + 1])
            .collect();
        match (bracket, marks.as_str()) {
            (_, "") | (')', ":") => {
                self.splice(open);
                self.text(at..at + 1);
            }
            (']', ":" | "::") if self.when(&open).is_some() => {
                let when = self.when(&open)?;
                open.parts.pop();
                let after = open.parts.pop()?;
                let before = open.parts.pop().unwrap_or_default();
                self.node(Node::Edit {
                    before,
                    after,
                    when,
                });
            }
            (']', marks) if !marks.contains(':') => self.node(Node::Turns(open.parts)),
            _ => {
                self.open.push(open);
                self.give_up()?;
                self.text(at..at + 1);
            }
        }
        Some(())
    }

    /// The number that an edit's last part is.
    fn when(&self, open: &Open) -> Option<When> {
        let [node] = open.parts.last()?[..] else {
            return None;
        };
        match &self.tree.nodes[node] {
            Node::Text(range) => When::parse(&self.prompt[range.clone()]),
            _ => None,
        }
    }

    /// A bracket, what is in it and between, as text and edits one after another.
    fn splice(&mut self, open: Open) {
        self.text(open.at..open.at + 1);
        let mut separators = open.separators.into_iter();
        for (i, row) in open.parts.into_iter().enumerate() {
            if i > 0
                && let Some(at) = separators.next()
            {
                self.text(at..at + 1);
            }
            self.append(row);
        }
    }

    /// Every open bracket is text, and so is the whole prompt where one of them has
    /// a `|`.
    fn give_up(&mut self) -> Option<()> {
        for open in std::mem::take(&mut self.open) {
            let turns = open
                .separators
                .iter()
                .any(|at| self.prompt[*at..].starts_with('|'));
            if turns {
                return None;
            }
            self.splice(open);
        }
        Some(())
    }
}

//! The graph for readers: as text, and as a picture in Mermaid's language.

use std::fmt::Write;

use super::graph::{Graph, NodeId, Op, View};
use super::lifetime::Lifetime;
use super::relational::describe;
use crate::error::Operator;

/// What a node is to a reader of the graph.
enum Kind {
    Input,
    Operator,
    State,
}

impl Graph {
    /// The graph as text: a line for each D-Stream and each output, with its inputs before it.
    pub fn explain(&self) -> String {
        let mut text = format!("every {} ms\n", self.interval_ms);
        let place = |operator: &Operator| format!("`{}` at {}", operator.name, operator.at);
        for (number, node) in self.nodes.iter().enumerate() {
            let mut line = format!("{number}: {}", place(&node.operator));
            let inputs: Vec<_> = node
                .inputs
                .iter()
                .map(|input| input.0.to_string())
                .collect();
            if !inputs.is_empty() {
                line += &format!(" of {}", inputs.join(", "));
            }
            if let Some(exchange) = exchange(&node.op) {
                line += &format!(", {exchange}");
            }
            if let Some(detail) = self.detail(&node.op) {
                line += &format!("; {detail}");
            }
            if node.slide_ms != self.interval_ms {
                line += &format!("; every {} ms", node.slide_ms);
            }
            let readers = self.readers(NodeId(number));
            if readers > 1 {
                line += &format!("; {readers} readers");
            }
            let _ = writeln!(text, "{line}");
            let _ = writeln!(text, "     {}", describe(&node.schema));
            if let Op::Query(query) = &node.op {
                for line in query.describe().lines() {
                    let _ = writeln!(text, "     | {line}");
                }
            }
        }
        for output in &self.outputs {
            let _ = writeln!(
                text,
                "output {} of {}",
                place(&output.operator),
                output.node.0
            );
        }
        text
    }

    /// The graph as a flowchart in Mermaid's language.
    pub fn explain_mermaid(&self) -> String {
        let mut text = "flowchart TD\n".to_owned();
        let label = |operator: &Operator, detail: Option<String>| {
            let detail = detail.map(|detail| format!("<br/>{}", escaped(&detail)));
            let detail = detail.unwrap_or_default();
            let (name, at) = (escaped(&operator.name), escaped(&operator.at));
            format!("\"<b>{name}</b>{detail}<br/>{at}\"")
        };
        for (number, node) in self.nodes.iter().enumerate() {
            let label = label(&node.operator, self.detail(&node.op));
            let (open, close) = match kind(&node.op) {
                Kind::Input => ("([", "])"),
                Kind::Operator => ("[", "]"),
                Kind::State => ("[(", ")]"),
            };
            let _ = writeln!(text, "    n{number}{open}{label}{close}");
            let moved = exchange(&node.op).map(|exchange| format!("|{exchange}|"));
            let moved = moved.unwrap_or_default();
            for input in &node.inputs {
                let _ = writeln!(text, "    n{} -->{moved} n{number}", input.0);
            }
        }
        for (number, output) in self.outputs.iter().enumerate() {
            let label = label(&output.operator, None);
            let _ = writeln!(text, "    out{number}[/{label}/]");
            let _ = writeln!(text, "    n{} --> out{number}", output.node.0);
        }
        text
    }

    /// What an operation does, beyond its name.
    fn detail(&self, op: &Op) -> Option<String> {
        let of_plan = |plan: &super::agg::AggPlan| {
            let parts = plan.parts.iter().map(|part| {
                let function = format!("{:?}", part.function).to_lowercase();
                match &part.column {
                    Some(column) => format!("{function}({column})"),
                    None => function,
                }
            });
            parts.collect::<Vec<_>>().join(", ")
        };
        Some(match op {
            Op::Source(input) => format!("stream `{}`", self.inputs.get(*input)?.name),
            Op::Aggregate { plan, .. } if plan.parts.is_empty() => return None,
            Op::Aggregate { plan, .. } => of_plan(plan),
            Op::Window {
                name,
                plan,
                batches,
                ..
            } => {
                let name = name.as_ref().map(|name| format!(" `{name}`"));
                let name = name.unwrap_or_default();
                format!("state{name}: {} over {batches} batches", of_plan(plan))
            }
            Op::Running {
                name,
                plan,
                timeout_ms,
                ..
            } => match timeout_ms {
                Some(timeout) => format!("state `{name}`: {}, timeout {timeout} ms", of_plan(plan)),
                None => format!("state `{name}`: {}", of_plan(plan)),
            },
            Op::ByTime { name, plan, .. } => {
                format!("state `{name}`: {} by event time", of_plan(plan))
            }
            Op::Tracked { name, lifetime, .. } => match *lifetime == Lifetime::default() {
                true => format!("state `{name}`: by closures"),
                false => format!("state `{name}`: by closures, {}", lifetime.describe()),
            },
            Op::Within(within) => format!(
                "state `{}`: {} ms before to {} ms after",
                within.name, within.before_ms, within.after_ms
            ),
            Op::Sessions(sessions) => {
                let (name, plan) = (&sessions.name, of_plan(&sessions.plan));
                format!("state `{name}`: {plan} by sessions")
            }
            Op::History { name, recall, .. } => match name {
                Some(name) => format!("state `{name}`: {}", recall.describe()),
                None => format!("state: {}", recall.describe()),
            },
            Op::StateView(view) => match view {
                View::Changes => "keys that changed".into(),
                View::All => "all keys".into(),
                View::TimedOut => "keys that expire".into(),
                View::Released => "records in the interval of their event time".into(),
                View::Late => "records that came too late".into(),
                View::Ahead => "records that are too far ahead".into(),
                View::Mapped => "records made by the closure".into(),
            },
            Op::Top { limit, .. } => format!("the first {limit}"),
            Op::Rows(_)
            | Op::Reduce { .. }
            | Op::Join(_)
            | Op::Cogroup { .. }
            | Op::Probe(_)
            | Op::Repartition { .. }
            | Op::Union
            | Op::Query(_) => {
                return None;
            }
        })
    }
}

fn kind(op: &Op) -> Kind {
    match op {
        Op::Source(_) => Kind::Input,
        state if state.is_state() => Kind::State,
        _ => Kind::Operator,
    }
}

/// How the rows of an operation's input are moved, if they are and that is known before it is planned.
fn exchange(op: &Op) -> Option<String> {
    match op {
        Op::Window { .. }
        | Op::Running { .. }
        | Op::ByTime { .. }
        | Op::Tracked { .. }
        | Op::Within(_)
        | Op::Sessions(_) => Some("by key".into()),
        Op::Join(_) | Op::Cogroup { .. } | Op::Probe(_) => Some("by key".into()),
        Op::History { keys: 0, .. } => Some("by turns".into()),
        Op::History { .. } => Some("by key".into()),
        Op::Aggregate { keys, .. } | Op::Reduce { keys, .. } if *keys > 0 => Some("by key".into()),
        Op::Aggregate { .. } | Op::Reduce { .. } | Op::Top { .. } => {
            Some("to one partition".into())
        }
        Op::Repartition { partitions } => Some(format!("to {partitions} partitions")),
        Op::Source(_) | Op::Rows(_) | Op::StateView(_) | Op::Union | Op::Query(_) => None,
    }
}

/// Text inside quotes of Mermaid.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => escaped += "#quot;",
            '#' => escaped += "#35;",
            '<' => escaped += "#lt;",
            '>' => escaped += "#gt;",
            '&' => escaped += "#amp;",
            '\n' | '\r' => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

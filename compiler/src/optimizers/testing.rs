//! Optimizers written as formulas, for the rules' tests.
//!
//! `m' = 0.9*m + 0.1*g; w' = w - lr*m'` becomes a graph: `w` is the parameter, `g` its gradient (the result of a MatMul),
//! `lr` and `t` scalar inputs, every other plain name a state, every primed name an output. Functions: sqrt, abs, sign, exp,
//! log, neg, max, min, pow, norm (ReduceL2), where(condition, a, b), gt(a, b), sum (over the tensor).

use super::{Match, RecogniseOptions, Recognition, Setting, Unmatched, recognise};
use crate::graph::{DType, Graph, Model, Node, Opset, Tensor, ValueId, ValueType};
use std::collections::HashMap;

/// A training step made of formulas.
pub fn step(formulas: &str) -> Model {
    let mut graph = Graph::new("step");
    let x = graph.add_input("x", ValueType::tensor(DType::F32, &[1, 4]));
    let w = graph.add_input("w", ValueType::tensor(DType::F32, &[4, 3]));
    // A forward pass reads the parameter, as in any real step.
    let [y] = graph.add(Node::new("MatMul", [x, w]), ["y"]);
    let [xt] = graph.add(Node::new("Transpose", [x]), ["xt"]);
    let [g] = graph.add(Node::new("MatMul", [xt, y]), ["g"]);
    for v in [y, g] {
        graph.value_mut(v).ty = Some(ValueType::tensor(DType::F32, if v == g { &[4, 3] } else { &[1, 3] }));
    }
    let mut parser =
        Parser { graph, names: HashMap::from([("w".into(), w), ("g".into(), g)]), text: Vec::new(), at: 0 };
    for formula in formulas.split(';').map(str::trim).filter(|f| !f.is_empty()) {
        let (name, body) = formula.split_once('=').unwrap();
        parser.text = body.chars().filter(|c| !c.is_whitespace()).collect();
        parser.at = 0;
        let value = parser.sum();
        assert_eq!(parser.at, parser.text.len(), "cannot read '{body}' to its end");
        let name = name.trim();
        if let Some(primed) = name.strip_suffix('\'') {
            let of = parser.name(primed);
            let ty = parser.graph.value(of).ty.clone();
            let out = parser.graph.add(Node::new("Identity", [value]), [name])[0];
            parser.graph.value_mut(out).ty = ty;
            parser.graph.outputs.push(out);
            parser.names.insert(name.into(), out);
        } else {
            parser.names.insert(name.into(), value);
        }
    }
    Model {
        ir_version: 8,
        opsets: vec![Opset { domain: String::new(), version: 17 }],
        graph: parser.graph,
        ..Model::default()
    }
}

/// Recognises a step made of formulas.
pub fn recognised(formulas: &str) -> Recognition {
    recognise(&step(formulas), &RecogniseOptions::default()).unwrap()
}

/// The match of the step's one parameter.
pub fn matched(formulas: &str) -> Match {
    let found = recognised(formulas);
    assert_eq!(found.unmatched, [], "{formulas}");
    assert_eq!(found.matches.len(), 1, "{formulas}");
    found.matches.into_iter().next().unwrap()
}

/// Why the step's one parameter is left alone.
pub fn refused(formulas: &str) -> Unmatched {
    let found = recognised(formulas);
    assert_eq!(found.matches, [], "{formulas}");
    found.unmatched.into_iter().next().unwrap_or_else(|| panic!("not even looked at: {formulas}"))
}

/// Checks that every near miss is refused for the reason given beside it.
pub fn near_misses(cases: &[(&str, &str)]) {
    assert!(cases.len() >= 5);
    for (formulas, reason) in cases {
        let unmatched = refused(formulas);
        assert!(
            unmatched.reason.contains(reason),
            "{formulas}\n  refused because {}\n  wanted: {reason}",
            unmatched.reason
        );
        assert!(!unmatched.node.is_empty(), "{formulas}");
    }
}

/// A setting that is a number.
pub fn number(m: &Match, name: &str) -> f64 {
    match m.settings[name] {
        Setting::Number(x) => x,
        Setting::Input(_) => panic!("{name} is an input"),
    }
}

struct Parser {
    graph: Graph,
    names: HashMap<String, ValueId>,
    text: Vec<char>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn eat(&mut self, c: char) -> bool {
        let is = self.peek() == Some(c);
        self.at += usize::from(is);
        is
    }

    fn op(&mut self, op: &str, inputs: &[ValueId]) -> ValueId {
        self.graph.add(Node::new(op, inputs.iter().copied()), [op])[0]
    }

    fn sum(&mut self) -> ValueId {
        let mut value = self.product();
        loop {
            let op = match self.peek() {
                Some('+') => "Add",
                Some('-') => "Sub",
                _ => return value,
            };
            self.at += 1;
            let right = self.product();
            value = self.op(op, &[value, right]);
        }
    }

    fn product(&mut self) -> ValueId {
        let mut value = self.power();
        loop {
            let op = match self.peek() {
                Some('*') => "Mul",
                Some('/') => "Div",
                _ => return value,
            };
            self.at += 1;
            let right = self.power();
            value = self.op(op, &[value, right]);
        }
    }

    fn power(&mut self) -> ValueId {
        let base = self.atom();
        if self.eat('^') {
            let exponent = self.atom();
            return self.op("Pow", &[base, exponent]);
        }
        base
    }

    fn atom(&mut self) -> ValueId {
        if self.eat('(') {
            let value = self.sum();
            assert!(self.eat(')'));
            return value;
        }
        let start = self.at;
        let number = |c: char, last: char| c.is_ascii_digit() || c == '.' || c == 'e' || (c == '-' && last == 'e');
        if self.peek().is_some_and(|c| c.is_ascii_digit()) {
            while self.peek().is_some_and(|c| number(c, self.text[self.at - usize::from(self.at > start)])) {
                self.at += 1;
            }
            let text: String = self.text[start..self.at].iter().collect();
            return self.graph.add_initializer("c", Tensor::f32([], &[text.parse().unwrap()]));
        }
        while self.peek().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '\'') {
            self.at += 1;
        }
        let word: String = self.text[start..self.at].iter().collect();
        if !self.eat('(') {
            return self.name(&word);
        }
        let mut arguments = vec![self.sum()];
        while self.eat(',') {
            arguments.push(self.sum());
        }
        assert!(self.eat(')'));
        let op = match word.as_str() {
            "sqrt" => "Sqrt",
            "abs" => "Abs",
            "sign" => "Sign",
            "exp" => "Exp",
            "log" => "Log",
            "neg" => "Neg",
            "max" => "Max",
            "min" => "Min",
            "pow" => "Pow",
            "where" => "Where",
            "gt" => "Greater",
            "norm" => "ReduceL2",
            "sum" => "ReduceSum",
            other => panic!("no function {other}"),
        };
        if matches!(op, "ReduceL2" | "ReduceSum") {
            return self.graph.add(Node::new(op, arguments).with("keepdims", 0i64), [op])[0];
        }
        self.op(op, &arguments)
    }

    fn name(&mut self, name: &str) -> ValueId {
        if let Some(value) = self.names.get(name) {
            return *value;
        }
        let scalar = matches!(name, "lr" | "t" | "b1" | "b2" | "wd" | "eps" | "pow1" | "pow2" | "clip" | "scale");
        let dims: &[usize] = if scalar { &[] } else { &[4, 3] };
        let value = self.graph.add_input(name, ValueType::tensor(DType::F32, dims));
        self.names.insert(name.into(), value);
        value
    }
}

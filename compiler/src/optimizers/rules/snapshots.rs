//! What each rule's optimizer is rewritten into, as text; one snapshot a kind.

use crate::graph::text;
use crate::optimizers::testing::step;
use crate::{CompileOptions, compile};

const MOMENTS: &str = "m' = 0.9*m + 0.1*g; v' = 0.999*v + 0.001*g*g;";
const CORRECTED: &str = "(m'/(1 - 0.9^t))/(sqrt(v'/(1 - 0.999^t)) + 1e-8)";

#[test]
fn rewritten_graph_of_every_kind() {
    let cases = [
        ("sgd", "w' = w - lr*(g + 0.0005*w)".to_string()),
        ("momentum", "b' = 0.9*b + g; w' = w - lr*b'".into()),
        ("nesterov", "d = g + 0.01*w; b' = 0.9*b + d; w' = w - lr*(d + 0.9*b')".into()),
        ("adam", format!("{MOMENTS} w' = w - lr*{CORRECTED}")),
        ("adamw", format!("{MOMENTS} w' = w*(1 - lr*0.01) - lr*{CORRECTED}")),
        ("amsgrad", format!("{MOMENTS} x' = max(x, v'); w' = w - lr*(m'/(1 - 0.9^t))/(sqrt(x'/(1 - 0.999^t)) + 1e-8)")),
        ("adamax", "m' = 0.9*m + 0.1*g; u' = max(0.999*u, abs(g) + 1e-8); w' = w - lr/(1 - 0.9^t)*m'/u'".into()),
        (
            "nadam",
            format!(
                "{MOMENTS} n = 0.9*m'/(1 - 0.9^(t + 1)) + 0.1*g/(1 - 0.9^t); w' = w - lr*n/(sqrt(v'/(1 - 0.999^t)) + 1e-8)"
            ),
        ),
        ("adagrad", "h' = h + g*g; w' = w - lr*g/(sqrt(h') + 1e-6)".into()),
        ("rmsprop", "v' = 0.99*v + 0.01*g*g; w' = w - lr*g/(sqrt(v') + 1e-8)".into()),
        (
            "adadelta",
            "s' = 0.9*s + 0.1*g*g; x = sqrt(d + 1e-6)/sqrt(s' + 1e-6)*g; d' = 0.9*d + 0.1*x*x; w' = w - lr*x".into(),
        ),
        ("lion", "w' = w - lr*sign(0.9*m + 0.1*g); m' = 0.99*m + 0.01*g".into()),
        ("lamb", format!("{MOMENTS} r = {CORRECTED} + 0.01*w; w' = w - lr*(norm(w)/norm(r))*r")),
    ];
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        for (name, formulas) in cases {
            let compiled = compile(step(&formulas), &CompileOptions::default()).unwrap();
            // Beside the graph, what was understood and every note about it; times are not the same twice.
            let explained: Vec<String> =
                compiled.report.explain().lines().filter(|l| !l.starts_with("pass ")).map(str::to_string).collect();
            let text = text::print(&compiled.model);
            // The function body is the same for all; the graph comes first.
            let graph = text.split("\nfunction ").next().unwrap_or_default();
            insta::assert_snapshot!(name, format!("{formulas}\n\n{}\n\n{graph}", explained.join("\n")));
        }
    });
}

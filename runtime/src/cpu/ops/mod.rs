//! ONNX operators of our own: those tract lacks, runs only in inference, or runs slowly.
//!
//! Each wraps functions of [`npc_kernels::cpu`]. An error names the operator, the node and the offending value.

pub mod conv;
pub mod conv_transpose;
pub mod dropout;
pub mod loss;
pub mod norm;
pub mod operator;
pub mod pool;
pub mod scatter;
mod tensors;
#[cfg(test)]
pub(crate) mod tests;
mod window;

use tract_onnx::model::{OnnxOpRegister, ParsingContext as Context};
use tract_onnx::pb::NodeProto;

use operator::Built;

type Builder = fn(&Context, &NodeProto) -> Built;

/// Operator types and what builds them; an entry replaces tract's own of the same name.
#[rustfmt::skip]
const OPERATORS: &[(&str, Builder)] = &[
    // tract takes three to four times as long.
    ("Conv",                      conv::build_conv),
    ("ConvTranspose",             conv_transpose::build_conv_transpose),
    ("MaxPool",                   pool::build_max_pool),
    ("AveragePool",               pool::build_average_pool),
    ("GlobalAveragePool",         pool::build_global_average_pool),
    // tract has them for inference only.
    ("BatchNormalization",        norm::build_batch_normalization),
    ("Dropout",                   dropout::build_dropout),
    // tract spells it as a dozen nodes.
    ("LayerNormalization",        norm::build_layer_normalization),
    // tract panics on an index outside the data.
    ("GatherElements",            scatter::build_gather_elements),
    ("Scatter",                   scatter::build_scatter_elements),
    ("ScatterElements",           scatter::build_scatter_elements),
    ("ScatterND",                 scatter::build_scatter_nd),
    // tract lacks them.
    ("MaxUnpool",                 pool::build_max_unpool),
    ("NegativeLogLikelihoodLoss", loss::build_negative_log_likelihood),
    ("SoftmaxCrossEntropyLoss",   loss::build_softmax_cross_entropy),
];

/// Adds every operator of this folder to `register`.
pub fn register(register: &mut OnnxOpRegister) {
    for (name, builder) in OPERATORS {
        register.insert(name, *builder);
    }
}

//! `AttributeProto.AttributeType` (onnx.proto) and the `AttributeProto` field that holds each type.

pub const FLOAT: i32 = 1;
pub const INT: i32 = 2;
pub const STRING: i32 = 3;
pub const TENSOR: i32 = 4;
pub const GRAPH: i32 = 5;
pub const FLOATS: i32 = 6;
pub const INTS: i32 = 7;
pub const STRINGS: i32 = 8;
pub const TENSORS: i32 = 9;
pub const GRAPHS: i32 = 10;
const SPARSE_TENSOR: i32 = 11;
const SPARSE_TENSORS: i32 = 12;
const TYPE_PROTO: i32 = 13;
const TYPE_PROTOS: i32 = 14;

/// Type of the value in a field; 0 for fields that hold none.
pub fn of_field(field: u32) -> i32 {
    match field {
        2 => FLOAT,
        3 => INT,
        4 => STRING,
        5 => TENSOR,
        6 => GRAPH,
        7 => FLOATS,
        8 => INTS,
        9 => STRINGS,
        10 => TENSORS,
        11 => GRAPHS,
        14 => TYPE_PROTO,
        15 => TYPE_PROTOS,
        22 => SPARSE_TENSOR,
        23 => SPARSE_TENSORS,
        _ => 0,
    }
}

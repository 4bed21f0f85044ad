//! Which tensors a setting applies to, by a tensor's index among the N trained ones in the model's order.

use super::{LayerScope, Settings};

/// Third of the model a tensor lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Third {
    Early,
    Middle,
    Late,
}

/// Early: i < ⌈N/3⌉; middle: i < ⌈2N/3⌉; late: the rest.
pub fn third(index: usize, count: usize) -> Third {
    match index {
        i if i < count.div_ceil(3) => Third::Early,
        i if i < (2 * count).div_ceil(3) => Third::Middle,
        _ => Third::Late,
    }
}

/// Group whose signals a layerwise controller averages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Group {
    Classifier,
    EarlyBlocks,
    LateBlocks,
    Stem,
}

fn is_classifier(index: usize, count: usize) -> bool {
    index >= count.saturating_sub(2)
}

fn is_early(index: usize, count: usize) -> bool {
    index < count.saturating_sub(2).div_ceil(2)
}

fn is_late(index: usize, count: usize) -> bool {
    let body = count.saturating_sub(2);
    (body / 2..body).contains(&index)
}

/// The first of classifier, early blocks, late blocks and stem that a tensor belongs to.
pub fn controller_group(index: usize, count: usize) -> Group {
    match index {
        i if is_classifier(i, count) => Group::Classifier,
        i if is_early(i, count) => Group::EarlyBlocks,
        i if is_late(i, count) => Group::LateBlocks,
        _ => Group::Stem,
    }
}

/// True when a hybrid base's modulation acts on this tensor.
pub fn layer_gate(settings: &Settings, index: usize, count: usize, rank: usize) -> bool {
    match settings.layer_scope {
        LayerScope::All => true,
        LayerScope::ClassifierOnly | LayerScope::HeadOnly => is_classifier(index, count),
        LayerScope::EarlyBlocks => is_early(index, count),
        LayerScope::LateBlocks | LayerScope::Late => is_late(index, count),
        LayerScope::ConvOnly => rank == 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_of_six_tensors() {
        use Group::*;
        assert_eq!([0, 1, 2, 3, 4, 5].map(|i| third(i, 6) as u8), [0, 0, 1, 1, 2, 2]);
        let groups = [0, 1, 2, 3, 4, 5].map(|i| controller_group(i, 6));
        assert_eq!(groups, [EarlyBlocks, EarlyBlocks, LateBlocks, LateBlocks, Classifier, Classifier]);
        let conv = Settings { layer_scope: LayerScope::ConvOnly, ..Settings::default() };
        assert!(layer_gate(&conv, 0, 6, 4) && !layer_gate(&conv, 1, 6, 1));
    }

    #[test]
    fn small_and_odd_counts() {
        assert_eq!(controller_group(0, 1), Group::Classifier);
        assert_eq!(third(0, 1), Third::Early);
        // B = 5: the middle block is both early and late; early comes first.
        assert_eq!(controller_group(2, 7), Group::EarlyBlocks);
        assert_eq!([0, 2, 4].map(|i| is_late(i, 7)), [false, true, true]);
    }
}

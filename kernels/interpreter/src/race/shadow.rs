pub(crate) struct Shadow;
impl Shadow { pub fn new(_size: usize) -> Self { Shadow } }

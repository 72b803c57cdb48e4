//! LoRA: low-rank adaptation. Hu et al., ICLR 2022, equation 3.
//!
//! `y = x W + b + s · (drop(x) A) B`, with `A: [d_in, r]`, `B: [r, d_out]` and `s = α / r`, or `α / √r` for rsLoRA (Kalajdzievski 2023).
//! `B` starts at zero, so the adapted model starts as the base. An embedding is adapted by `E[i] + s · A[i] B`, with `A` at zero instead.

use burn::module::{Module, Param};
use burn::nn::Dropout;
use burn::tensor::{DType, Device, Int, Tensor};
use peft_core::{Adapter, Base, Result, Site, Stored, as_type, ops, seed};
use rand_chacha::ChaCha8Rng;

/// The state of LoRA on one weight.
#[derive(Module, Debug)]
pub struct Lora {
    /// `A: [d_in, r]`.
    pub lora_a: Param<Tensor<2>>,
    /// `B: [r, d_out]`.
    pub lora_b: Param<Tensor<2>>,
    /// A trainable bias of the map `B`, `[d_out]` (`lora_bias`); it is scaled as the rest.
    pub lora_b_bias: Option<Param<Tensor<1>>>,
    dropout: Dropout,
    scaling: f64,
    embedding: bool,
}

/// How the two factors begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// `A` uniform as Kaiming et al. with gain for `a = √5`, `B = 0`.
    Kaiming,
    /// `A ~ N(0, 1/r²)`, `B = 0`.
    Gaussian,
    /// Both zero: their values come from a file.
    Zero,
    /// Both random, so that the adapter changes the model from the start: for tests.
    Random,
}

impl Lora {
    /// A new adapter for `site`.
    pub fn new(site: &Site, rank: usize, scaling: f64, dropout: f64, start: Start, rng: &mut ChaCha8Rng, device: &Device) -> Self {
        let [d_in, d_out] = site.dims();
        let uniform = |shape, fan: usize, rng: &mut _| seed::uniform::<2>(shape, 1.0 / (fan as f64).sqrt(), rng, device);
        let embedding = site.is_embedding();
        let (a, b) = match (embedding, start) {
            (_, Start::Zero) => (Tensor::zeros([d_in, rank], device), Tensor::zeros([rank, d_out], device)),
            (true, Start::Random) => (seed::normal([d_in, rank], 1.0, rng, device), seed::normal([rank, d_out], 1.0, rng, device)),
            (true, _) => (Tensor::zeros([d_in, rank], device), seed::normal([rank, d_out], 1.0, rng, device)),
            (false, Start::Kaiming) => (uniform([d_in, rank], d_in, rng), Tensor::zeros([rank, d_out], device)),
            (false, Start::Gaussian) => (seed::normal([d_in, rank], 1.0 / rank as f64, rng, device), Tensor::zeros([rank, d_out], device)),
            (false, Start::Random) => (uniform([d_in, rank], d_in, rng), uniform([rank, d_out], rank, rng)),
        };
        Self::from_factors(a, b, scaling, dropout, embedding)
    }

    /// An adapter with given factors `A: [d_in, r]` and `B: [r, d_out]`.
    pub fn from_factors(a: Tensor<2>, b: Tensor<2>, scaling: f64, dropout: f64, embedding: bool) -> Self {
        Self {
            lora_a: Param::from_tensor(a),
            lora_b: Param::from_tensor(b),
            lora_b_bias: None,
            dropout: ops::dropping(dropout),
            scaling,
            embedding,
        }
    }

    /// The same with a bias on the map `B`, at zero.
    pub fn with_bias(mut self) -> Self {
        let b = self.lora_b.val();
        self.lora_b_bias = Some(Param::from_tensor(Tensor::zeros([b.dims()[1]], &b.device())));
        self
    }

    /// The factor `s` before `A B`.
    pub fn scaling(&self) -> f64 {
        self.scaling
    }

    /// Whether the next forward call drops inputs at random.
    pub fn drops(&self) -> bool {
        ops::drops(&self.dropout, &self.lora_a.val().device())
    }

    /// `drop(x)`.
    pub fn dropped(&self, x: Tensor<2>) -> Tensor<2> {
        ops::dropout(&self.dropout, x)
    }

    /// `s · (x A) B` for `x: [n, d_in]`, `[n, d_out]`, in the type of `x`, without dropout.
    pub fn branch(&self, x: Tensor<2>) -> Tensor<2> {
        let dtype = x.dtype();
        let hidden = as_type(x, DType::F32).matmul(self.lora_a.val());
        as_type(hidden.matmul(self.lora_b.val()) * self.scaling, dtype)
    }

    /// `x W + s · (x A) B + bias`.
    fn on(&self, base: &Base, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        match self.drops() {
            true => base.affine(x.clone(), bias) + self.branch(self.dropped(x)),
            false => base.low_rank(x, [self.lora_a.val(), self.lora_b.val()], self.scaling, bias),
        }
    }
}

impl Adapter for Lora {
    const NAME: &'static str = "lora";

    fn weight(&self, base: Tensor<2>) -> Tensor<2> {
        let change = self.lora_a.val().matmul(self.lora_b.val()) * self.scaling;
        let dtype = base.dtype();
        base + as_type(change, dtype)
    }

    fn forward(&self, x: Tensor<2>, base: &Base) -> Tensor<2> {
        self.on(base, x, None)
    }

    fn project(&self, x: Tensor<2>, base: &Base, bias: Option<Tensor<1>>) -> Tensor<2> {
        self.on(base, x, self.bias(bias))
    }

    fn delta(&self, x: Tensor<2>) -> Option<Tensor<2>> {
        Some(self.branch(self.dropped(x)))
    }

    fn rows(&self, ids: Tensor<1, Int>, base: &Base) -> Tensor<2> {
        let rows = as_type(base.rows(ids.clone()), DType::F32);
        rows + self.lora_a.val().select(0, ids).matmul(self.lora_b.val()) * self.scaling
    }

    fn bias(&self, base: Option<Tensor<1>>) -> Option<Tensor<1>> {
        let own = self.lora_b_bias.as_ref().map(|bias| bias.val() * self.scaling);
        match (base, own) {
            (Some(base), Some(own)) => Some(as_type(base, DType::F32) + own),
            (base, own) => base.or(own),
        }
    }

    fn export(&self) -> Vec<Stored> {
        let (a, b) = if self.embedding { ("lora_embedding_A", "lora_embedding_B") } else { ("lora_A.weight", "lora_B.weight") };
        let mut stored = vec![Stored::transposed(a, self.lora_a.val()), Stored::transposed(b, self.lora_b.val())];
        stored.extend(self.lora_b_bias.as_ref().map(|bias| Stored::new("lora_B.bias", bias.val())));
        stored
    }

    fn import(&mut self, read: &mut dyn FnMut(&str, &[usize]) -> Result<Tensor<1>>) -> Result<()> {
        let stored = self.export();
        let mut values = stored.iter().map(|tensor| read(&tensor.name, &tensor.shape)).collect::<Result<Vec<_>>>()?.into_iter();
        let mut matrix = |param: &mut Param<Tensor<2>>| {
            if let Some(values) = values.next() {
                let [rows, columns] = param.dims();
                *param = peft_core::set(param.clone(), values.reshape([columns, rows]).transpose());
            }
        };
        matrix(&mut self.lora_a);
        matrix(&mut self.lora_b);
        if let (Some(bias), Some(values)) = (&mut self.lora_b_bias, values.next()) {
            *bias = peft_core::set(bias.clone(), values);
        }
        Ok(())
    }
}

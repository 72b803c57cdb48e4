//! Many inner products, read from the device at once.

use burn::tensor::Tensor;

/// Inner products that are computed one after the other and read together.
#[derive(Default)]
pub struct InnerProducts {
    places: Vec<usize>,
    products: Vec<Tensor<1>>,
}

impl InnerProducts {
    /// `⟨a, b⟩`, which will be at `place`.
    pub fn add(&mut self, place: usize, a: Tensor<1>, b: Tensor<1>) {
        self.places.push(place);
        self.products.push((a * b).sum());
    }

    /// All of them in a list of `len`, added up where several have the same place; zero where there is none.
    pub fn read(self, len: usize) -> Vec<f32> {
        let mut found = vec![0.0; len];
        if self.products.is_empty() {
            return found;
        }
        let products = super::host(Tensor::cat(self.products, 0));
        self.places.into_iter().zip(products).for_each(|(place, product)| found[place] += product);
        found
    }
}

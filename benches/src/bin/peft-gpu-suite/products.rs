//! Matrix products of a training step by each kernel that CubeCL has for them: which one to take where nothing is tuned.

use crate::Suite;
use crate::attempt::attempt;
use crate::correctness::difference;
use crate::shape::Shape;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::ops::FloatTensorOps;
use burn::backend::{Backend, DispatchDevice, read_sync};
use burn::tensor::{self, DType, Distribution, FloatDType};
use burn_cubecl::ops::numeric::empty_device_dtype;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::launch_ref;
use cubek::matmul::multi_level::Strategy as Staged;
use cubek::matmul::strategy::Strategy;
use cubek::matmul::tiled;
use cubek::std::InputBinding;
use peft_core::{Error, Result};
use serde_json::{Value, json};
use std::time::Instant;

/// Products that are timed together, after one that compiles the kernel.
const LAUNCHES: u32 = 20;

macro_rules! staged {
    ($($name:ident),*) => { [$((stringify!($name), Strategy::MultiLevel(Staged::$name(Default::default())))),*] };
}

/// By name; the first is what an untuned build takes.
fn kernels() -> Vec<(&'static str, Strategy)> {
    let mut all = vec![("Auto", Strategy::Auto), ("Tiled", Strategy::Tiled(tiled::Strategy::Cmma(Default::default())))];
    all.extend(staged!(
        SimpleCyclicCmma,
        SimpleCyclicMma,
        SimpleTilewiseCmma,
        SimpleTilewiseMma,
        SimpleAsyncCyclicMma,
        SimpleTmaCmma,
        SimpleTmaMma,
        DoubleCyclicCmma,
        DoubleCyclicMma,
        DoubleTilewiseMma,
        DoubleHybridMma,
        DoubleAsyncCyclicMma,
        DoubleTmaCmma,
        DoubleTmaMma,
        SpecializedCyclicCmma,
        SpecializedCyclicMma,
        SpecializedTmaCmma,
        SpecializedTmaMma,
        OrderedDoubleCmma,
        OrderedDoubleMma,
        SimpleUnit,
        DoubleUnit
    ));
    all
}

/// The way through a matrix of the MLP and the way back, in bf16 where the device computes in that.
pub fn run(suite: &Suite, shape: Shape) -> Result<Value> {
    let device = suite.device()?;
    let DispatchDevice::Cube(cube) = device.as_dispatch() else {
        return Err(Error::InvalidConfig("products are measured on a GPU: --device cuda or vulkan".into()));
    };
    let config = shape.config()?;
    let (tokens, width, inner) = (suite.batch * suite.seq, config.hidden_size, config.intermediate_size);
    let dtype = if device.supports_dtype(DType::BF16) { FloatDType::BF16 } else { FloatDType::F32 };
    let random = |shape: [usize; 2]| {
        let drawn = CubeBackend::float_random(tensor::Shape::new(shape), Distribution::Default, cube, FloatDType::F32);
        CubeBackend::float_cast(drawn, dtype)
    };
    let weight = random([inner, width]);
    let problems = [
        ("forward", random([tokens, width]), CubeBackend::float_swap_dims(weight.clone(), 0, 1)),
        ("backward", random([tokens, inner]), weight),
    ];
    let operations = 2.0 * (tokens * width * inner) as f64;
    let mut results = Vec::new();
    for (way, x, weight) in problems {
        let mut expected = None;
        for (kernel, strategy) in kernels() {
            let product = || product(&strategy, &x, &weight, cube);
            let mut result = json!({ "way": way, "kernel": kernel });
            match attempt(product) {
                Ok((seconds, values)) => {
                    let expected = expected.get_or_insert_with(|| values.clone());
                    result["tflops"] = (operations / seconds / 1e12).into();
                    result["difference"] = difference(expected, &values).into();
                }
                Err(error) => result["error"] = error.lines().next().unwrap_or_default().into(),
            }
            eprintln!("   {result}");
            results.push(result);
        }
    }
    Ok(json!({ "dtype": DType::from(dtype).name(), "tokens": tokens, "weight": [inner, width], "products": results }))
}

/// Seconds of one product, and its numbers.
fn product(strategy: &Strategy, x: &CubeTensor, weight: &CubeTensor, device: &CubeDevice) -> Result<(f64, Vec<f32>)> {
    let failed = |e: &dyn std::fmt::Debug| Error::Device(format!("{e:?}"));
    let shape = tensor::Shape::new([x.meta.shape()[0], weight.meta.shape()[1]]);
    let out = empty_device_dtype(x.client.clone(), device.clone(), shape, x.dtype);
    let stored = dtype_to_storage_type(x.dtype);
    let launch = || {
        let [x, weight] = [x, weight].map(|factor| InputBinding::new(factor.clone().binding(), stored));
        let mut types = MatmulElems::from_globals(&MatmulGlobalElems { lhs: stored, rhs: stored, out: stored });
        launch_ref(strategy, &out.client, x, weight, out.clone().binding(), &mut types).map_err(|e| failed(&e))
    };
    let synced = || CubeBackend::sync(device).map_err(|e| failed(&e));
    launch()?;
    synced()?;
    let start = Instant::now();
    (0..LAUNCHES).try_for_each(|_| launch())?;
    synced()?;
    let seconds = start.elapsed().as_secs_f64() / f64::from(LAUNCHES);
    let data = read_sync(CubeBackend::float_into_data(out)).map_err(|e| failed(&e))?;
    Ok((seconds, data.convert::<f32>().try_into_vec().map_err(|e| failed(&e))?))
}

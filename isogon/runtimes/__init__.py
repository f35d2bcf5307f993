"""Running an exported model, in ONNX Runtime, OpenVINO or TensorRT. No torch."""

from isogon.runtimes.cuda import (
    CudaDevice as CudaDevice,
    cuda_device as cuda_device,
)
from isogon.runtimes.device import (
    ANY_DEVICE as ANY_DEVICE,
    Device as Device,
    Provider as Provider,
)
from isogon.runtimes.known import (
    other_runtimes as other_runtimes,
    runtime_for as runtime_for,
)
from isogon.runtimes.onnx import (
    CALIBRATION_KEY as CALIBRATION_KEY,
    FUNCTION_KEY as FUNCTION_KEY,
    PREPROCESSING_KEY as PREPROCESSING_KEY,
    OnnxRunner as OnnxRunner,
)
from isogon.runtimes.openvino import (
    OpenVinoRunner as OpenVinoRunner,
)
from isogon.runtimes.runner import (
    BatchProfile as BatchProfile,
    How as How,
    Outputs as Outputs,
    Pixels as Pixels,
    Precision as Precision,
    Runner as Runner,
    Runtime as Runtime,
)
from isogon.runtimes.stamps import (
    EngineStamp as EngineStamp,
    Flavour as Flavour,
    Machine as Machine,
)
from isogon.runtimes.tensorrt import (
    TensorRTRunner as TensorRTRunner,
)

"""What a model can be exported as: how each is written, and run again without us."""

import importlib.util
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import errors
from vit_jax.weights.exporting.served import Served

# uint8 [b, height, width, 3] -> outputs by name
Run = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        suffix: Of its files; "" of a folder.
        write: Puts a model at a path that is not there yet.
        run: Opens what was written with the other tool alone.
        packages: That are imported for it.
        install: The command that installs them.
    """

    suffix: str
    write: Callable[[Served, Path], None]
    run: Callable[[Path], Run]
    packages: tuple[str, ...] = ()
    install: str = ""

    def check(self) -> None:
        """Raises `UserError` unless what it needs is installed."""
        missing = [
            name for name in self.packages if importlib.util.find_spec(name) is None
        ]
        if missing:
            raise errors.UserError(
                f"this format needs {', '.join(missing)}, not installed here; run "
                f"{self.install}"
            )


def _symbolic(served: Served) -> jax.ShapeDtypeStruct:
    """Images of a batch of any size."""
    (batch,) = jax.export.symbolic_shape("b")
    return jax.ShapeDtypeStruct((batch, *served.image_size, 3), jnp.uint8)


def with_files_behind(content: bytes, served: Served) -> bytes:
    """Appends labels and manifest as a zip archive, as TFLite's metadata do.

    The model is read from the front of the file, an archive from its end.
    """
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        _add(archive, "manifest.json", served.to_json())
        if served.labels:
            _add(archive, "labels.txt", "".join(f"{name}\n" for name in served.labels))
    return content + held.getvalue()


def _add(archive: zipfile.ZipFile, name: str, text: str) -> None:
    archive.writestr(zipfile.ZipInfo(name), text)  # without a date: equal bytes


PLATFORMS = ("cpu", "cuda", "tpu")


def _write_stablehlo(served: Served, path: Path) -> None:
    from jax import export

    exported = export.export(jax.jit(served.call), platforms=PLATFORMS)(
        _symbolic(served)
    )
    path.write_bytes(with_files_behind(bytes(exported.serialize()), served))


def _run_stablehlo(path: Path) -> Run:
    from jax import export

    exported = export.deserialize(bytearray(path.read_bytes()))

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        outputs: Any = exported.call(images)  # the tree that was exported
        return {k: np.asarray(v) for k, v in outputs.items()}

    return run


def _write_savedmodel(served: Served, path: Path) -> None:
    import tensorflow as tf
    from jax.experimental import jax2tf

    call = tf.function(
        jax2tf.convert(
            served.call,
            polymorphic_shapes=["(b, ...)"],
            with_gradient=False,
            native_serialization_platforms=PLATFORMS,
        ),
        input_signature=[
            tf.TensorSpec((None, *served.image_size, 3), tf.uint8, name="images")
        ],
        autograph=False,
    )
    module: Any = tf.Module()
    module.call = call
    module.labels = tf.constant(served.labels, tf.string)
    module.manifest = tf.constant(served.to_json())
    signatures = {"serving_default": call.get_concrete_function()}
    tf.saved_model.save(module, str(path), signatures=signatures)
    (path / "assets.extra").mkdir(exist_ok=True)
    (path / "assets.extra" / "manifest.json").write_text(served.to_json())


def _run_savedmodel(path: Path) -> Run:
    import tensorflow as tf

    module = tf.saved_model.load(str(path))

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        found = module.signatures["serving_default"](images=tf.constant(images))
        return {name: value.numpy() for name, value in found.items()}

    return run


def _write_tflite(served: Served, path: Path) -> None:
    import tensorflow as tf

    from vit_jax.weights.exporting import tensorflow_graph

    call = tensorflow_graph.function(tf, served.call, _symbolic(served))
    module: Any = tf.Module()
    module.call = call
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [call.get_concrete_function()], module
    )
    path.write_bytes(with_files_behind(converter.convert(), served))


def _run_tflite(path: Path) -> Run:
    from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]

    runner = Interpreter(model_path=str(path)).get_signature_runner()
    return lambda images: runner(images=images)


def _write_onnx(served: Served, path: Path) -> None:
    import onnx  # pyright: ignore[reportMissingImports]
    from jax2onnx import to_onnx  # pyright: ignore[reportMissingImports]

    from vit_jax.weights.exporting import flat

    names = list(served.manifest["outputs"])
    images = _symbolic(served)
    model = to_onnx(
        flat.flat(served.call, images, flat.OF_ONNX),
        [images],
        model_name="vit_jax",
        input_names=["images"],
        output_names=names,
    )
    onnx.helper.set_model_props(
        model, {"manifest": served.to_json(), "labels": "\n".join(served.labels)}
    )
    onnx.save(model, path)


def _run_onnx(path: Path) -> Run:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session: Any = onnxruntime.InferenceSession(path)  # outputs of any type
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(
        zip(names, session.run(names, {session.get_inputs()[0].name: images}))
    )


FORMATS: dict[str, Format] = {
    "stablehlo": Format(
        ".stablehlo",
        _write_stablehlo,
        _run_stablehlo,
        ("flatbuffers",),
        "pip install 'vit_jax[export]'",
    ),
    "savedmodel": Format(
        "",
        _write_savedmodel,
        _run_savedmodel,
        ("tensorflow",),
        "pip install 'vit_jax[prepare]'",
    ),
    "tflite": Format(
        ".tflite",
        _write_tflite,
        _run_tflite,
        ("tensorflow", "ai_edge_litert"),
        "pip install 'vit_jax[tflite]'",
    ),
    # jax2onnx asks for an older orbax-checkpoint, which it does not use here.
    "onnx": Format(
        ".onnx",
        _write_onnx,
        _run_onnx,
        ("jax2onnx", "onnx", "onnxruntime"),
        "pip install 'vit_jax[onnx]', then pip install --no-deps jax2onnx",
    ),
}

"""A GGUF file's weights in float32, in a file of their own: the model that `kv.load` makes of it, for llama.cpp."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import tyro


def main(source: Path, target: Path) -> Path:
    """Dequantise a file. Everything that isn't a weight is taken over as it is.

    Args:
        source: the file that people have.
        target: the file to write; four bytes a weight.
    """
    read = gguf.GGUFReader(source)
    out = gguf.GGUFWriter(target, read.fields["general.architecture"].contents())
    for name, field in read.fields.items():
        if name == "general.file_type":
            out.add_file_type(gguf.LlamaFileType.ALL_F32)
        elif name != "general.architecture" and not name.startswith("GGUF."):
            inside = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            out.add_key_value(name, field.contents(), field.types[0], inside)
    for tensor in read.tensors:
        out.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return target


if __name__ == "__main__":
    tyro.cli(main)

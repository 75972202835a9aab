/** The arrays of the conformance suite: tensors of a safetensors file, by name. */
package dst.conformance

import com.google.gson.JsonParser
import dst.DType
import dst.Tensor
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.abs
import kotlin.math.sqrt

private val DTYPES = mapOf(
    "F16" to DType.FLOAT16,
    "F32" to DType.FLOAT32,
    "F64" to DType.FLOAT64,
    "I8" to DType.INT8,
    "I32" to DType.INT32,
    "I64" to DType.INT64,
    "U8" to DType.UINT8,
    "BOOL" to DType.BOOL,
)

/** Read the tensors whose names begin with a prefix; their names here are without it. */
fun readArrays(file: File, prefix: String = ""): Map<String, Tensor> {
    val bytes = ByteBuffer.wrap(file.readBytes()).order(ByteOrder.LITTLE_ENDIAN)
    val headerSize = Math.toIntExact(bytes.getLong(0))
    val header = JsonParser.parseString(String(bytes.array(), 8, headerSize)).asJsonObject
    return header.entrySet().filter { it.key != "__metadata__" && it.key.startsWith(prefix) }.associate { (name, told) ->
        val tensor = told.asJsonObject
        val (begin, end) = tensor["data_offsets"].asJsonArray.map { it.asInt }
        val shape = tensor["shape"].asJsonArray.map { it.asLong }.toLongArray()
        val data = bytes.duplicate().position(8 + headerSize + begin).limit(8 + headerSize + end).slice()
        name.removePrefix(prefix) to Tensor(DTYPES.getValue(tensor["dtype"].asString), shape, data)
    }
}

/** max|found - expected| / rms(expected) of floats; 0 where there is no difference. */
fun relativeError(found: Tensor, expected: Tensor): Double {
    val values = doublesOf(found)
    val right = doublesOf(expected)
    val most = values.indices.maxOfOrNull { abs(values[it] - right[it]) } ?: 0.0
    return if (most == 0.0) 0.0 else most / sqrt(right.sumOf { it * it } / right.size)
}

private fun doublesOf(tensor: Tensor): DoubleArray = when (tensor.dtype) {
    DType.FLOAT64 -> tensor.doubles()
    DType.FLOAT32 -> tensor.floats().let { floats -> DoubleArray(floats.size) { floats[it].toDouble() } }
    DType.FLOAT16 -> DoubleArray(tensor.size) { halfToDouble(tensor.data.getShort(2 * it).toInt() and 0xffff) }
    else -> error("${tensor.dtype} is not a float")
}

private fun halfToDouble(bits: Int): Double {
    val exponent = bits shr 10 and 31
    val fraction = (bits and 1023) / 1024.0
    val size = when (exponent) {
        0 -> Math.scalb(fraction, -14)
        31 -> if (fraction == 0.0) Double.POSITIVE_INFINITY else Double.NaN
        else -> Math.scalb(1 + fraction, exponent - 15)
    }
    return if (bits and 0x8000 != 0) -size else size
}

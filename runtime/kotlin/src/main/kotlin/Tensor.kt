package dst

import java.nio.ByteBuffer
import java.nio.ByteOrder

/** The data types of tensors, in the order of `dst_dtype`. */
enum class DType(val bytes: Int) {
    FLOAT16(2),
    FLOAT32(4),
    FLOAT64(8),
    INT8(1),
    INT32(4),
    INT64(8),
    UINT8(1),
    BOOL(1),
}

/**
 * Values in C order, with their data type and shape.
 *
 * [data] has the byte order of the machine. A direct buffer goes to the model without a copy: to feed
 * many chunks of one shape, make one tensor with [allocate] and write into its [data] each time.
 */
class Tensor(val dtype: DType, val shape: LongArray, data: ByteBuffer) {
    /** The bytes of the values, from position 0. */
    val data: ByteBuffer = data.duplicate().order(ByteOrder.nativeOrder()).apply { rewind() }

    /** How many values there are. */
    val size: Int get() = shape.fold(1L) { product, axis -> Math.multiplyExact(product, axis) }.toInt()

    init {
        require(shape.all { it >= 0 }) { "shape is ${shape.toList()}, expected no negative size" }
        require(this.data.remaining() == size * dtype.bytes) {
            "data has ${this.data.remaining()} bytes, expected ${size * dtype.bytes} for $dtype ${shape.toList()}"
        }
    }

    /** Copy the values of a FLOAT32 tensor. */
    fun floats(): FloatArray {
        requireType(DType.FLOAT32)
        return FloatArray(size).also { data.duplicate().order(data.order()).asFloatBuffer().get(it) }
    }

    /** Copy the values of a FLOAT64 tensor. */
    fun doubles(): DoubleArray {
        requireType(DType.FLOAT64)
        return DoubleArray(size).also { data.duplicate().order(data.order()).asDoubleBuffer().get(it) }
    }

    /** Copy the values of an INT64 tensor. */
    fun longs(): LongArray {
        requireType(DType.INT64)
        return LongArray(size).also { data.duplicate().order(data.order()).asLongBuffer().get(it) }
    }

    /** Copy the values of an INT32 tensor. */
    fun ints(): IntArray {
        requireType(DType.INT32)
        return IntArray(size).also { data.duplicate().order(data.order()).asIntBuffer().get(it) }
    }

    /** Copy the bytes of the values, of any data type. */
    fun bytes(): ByteArray = ByteArray(data.remaining()).also { data.duplicate().get(it) }

    override fun toString(): String = "Tensor($dtype ${shape.toList()})"

    internal fun direct(): ByteBuffer {
        if (data.isDirect) return data
        return ByteBuffer.allocateDirect(data.remaining()).apply { put(data.duplicate()) }
    }

    private fun requireType(expected: DType) =
        check(dtype == expected) { "the tensor is $dtype, expected $expected; use bytes() for other types" }

    companion object {
        /** Make a tensor of zeros in a direct buffer. */
        fun allocate(dtype: DType, vararg shape: Long): Tensor {
            val size = shape.fold(dtype.bytes.toLong()) { product, axis -> Math.multiplyExact(product, axis) }
            return Tensor(dtype, shape, ByteBuffer.allocateDirect(Math.toIntExact(size)))
        }

        /** Copy values into a FLOAT32 tensor. */
        fun of(values: FloatArray, vararg shape: Long): Tensor =
            allocate(DType.FLOAT32, *shape).apply { data.asFloatBuffer().put(values) }

        /** Copy values into an INT64 tensor. */
        fun of(values: LongArray, vararg shape: Long): Tensor =
            allocate(DType.INT64, *shape).apply { data.asLongBuffer().put(values) }

        /** Copy values into an INT32 tensor. */
        fun of(values: IntArray, vararg shape: Long): Tensor =
            allocate(DType.INT32, *shape).apply { data.asIntBuffer().put(values) }
    }
}

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
class Tensor(val dtype: DType, shape: LongArray, data: ByteBuffer) {
    private val axes = shape.copyOf()

    /** The sizes of the axes, a copy. */
    val shape: LongArray get() = axes.copyOf()

    /** The bytes of the values, from position 0. */
    val data: ByteBuffer = data.duplicate().order(ByteOrder.nativeOrder()).apply { rewind() }

    /** How many values there are. */
    val size: Int get() = axes.fold(1L) { product, axis -> product * axis }.toInt()

    init {
        require(axes.all { it >= 0 }) { "shape is ${axes.toList()}, expected no negative size" }
        val bytes = bytesOf(dtype, axes)
        require(this.data.remaining().toLong() == bytes) {
            "data has ${this.data.remaining()} bytes, expected $bytes for $dtype ${axes.toList()}"
        }
    }

    /** Copy the values of a FLOAT32 tensor. */
    fun floats(): FloatArray {
        requireType(DType.FLOAT32)
        return FloatArray(size).also { whole().asFloatBuffer().get(it) }
    }

    /** Copy the values of a FLOAT64 tensor. */
    fun doubles(): DoubleArray {
        requireType(DType.FLOAT64)
        return DoubleArray(size).also { whole().asDoubleBuffer().get(it) }
    }

    /** Copy the values of an INT64 tensor. */
    fun longs(): LongArray {
        requireType(DType.INT64)
        return LongArray(size).also { whole().asLongBuffer().get(it) }
    }

    /** Copy the values of an INT32 tensor. */
    fun ints(): IntArray {
        requireType(DType.INT32)
        return IntArray(size).also { whole().asIntBuffer().get(it) }
    }

    /** Copy the bytes of the values, of any data type. */
    fun bytes(): ByteArray = ByteArray(size * dtype.bytes).also { whole().get(it) }

    override fun toString(): String = "Tensor($dtype ${axes.toList()})"

    internal fun direct(): ByteBuffer {
        if (data.isDirect) return data
        return ByteBuffer.allocateDirect(size * dtype.bytes).apply { put(whole()) }
    }

    /** The bytes of the values, wherever callers have moved the position and the limit of [data]. */
    private fun whole(): ByteBuffer = data.duplicate().order(data.order()).apply {
        clear()
        limit(size * dtype.bytes)
    }

    private fun requireType(expected: DType) =
        check(dtype == expected) { "the tensor is $dtype, expected $expected; use bytes() for other types" }

    companion object {
        /** Make a tensor of zeros in a direct buffer. */
        fun allocate(dtype: DType, vararg shape: Long): Tensor {
            val size = Math.toIntExact(bytesOf(dtype, shape))
            return Tensor(dtype, shape, ByteBuffer.allocateDirect(size))
        }

        private fun bytesOf(dtype: DType, shape: LongArray): Long =
            shape.fold(dtype.bytes.toLong()) { product, axis -> Math.multiplyExact(product, axis) }

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

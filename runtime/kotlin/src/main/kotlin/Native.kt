package dst

/**
 * The functions of `dst_jni.cpp`. Texts cross as UTF-8, handles as numbers; a function that fails
 * throws a [DstException]. Nothing here checks that a handle is still alive: its callers do.
 */
internal object Native {
    init {
        System.loadLibrary("dst_jni")
    }

    @JvmStatic external fun version(): ByteArray

    @JvmStatic external fun open(path: ByteArray, numbers: IntArray, lowering: ByteArray?, chunkSizes: IntArray?): Long

    @JvmStatic external fun closeSession(session: Long)

    @JvmStatic external fun loadGraphs(session: Long)

    /** Name, model id, bundle id, precision, tail, then the names of the outputs and of the state. */
    @JvmStatic external fun infoTexts(session: Long): Array<ByteArray>

    /** Dtype and T, look-back, look-ahead, vocabulary, values of an item, outputs, state tensors, state bytes. */
    @JvmStatic external fun infoNumbers(session: Long): LongArray

    @JvmStatic external fun tolerance(session: Long): Double

    @JvmStatic external fun start(session: Long, names: Array<ByteArray>, tensors: Array<Tensor>): Long

    @JvmStatic external fun load(session: Long, path: ByteArray, flags: Int): Long

    @JvmStatic external fun fromBytes(session: Long, bytes: ByteArray, flags: Int): Long

    @JvmStatic external fun free(stream: Long)

    @JvmStatic external fun step(stream: Long, chunk: Tensor, flags: Int, deadlineMs: Double)

    @JvmStatic external fun advance(stream: Long, items: Tensor, flags: Int, deadlineMs: Double)

    @JvmStatic external fun advanceBytes(stream: Long, bytes: ByteArray, flags: Int, deadlineMs: Double)

    @JvmStatic external fun flush(stream: Long, deadlineMs: Double)

    @JvmStatic external fun cancel(stream: Long)

    @JvmStatic external fun output(stream: Long, index: Int): Tensor

    @JvmStatic external fun state(stream: Long, index: Int): Tensor

    @JvmStatic external fun itemsConsumed(stream: Long): Long

    @JvmStatic external fun pending(stream: Long): Long

    /** Seed and draws, or null. */
    @JvmStatic external fun sampler(stream: Long): LongArray?

    @JvmStatic
    external fun generate(
        stream: Long,
        prompt: Tensor,
        count: Int,
        temperature: Double,
        topK: Long,
        topP: Double,
        seed: LongArray?,
        stop: LongArray,
    ): LongArray

    @JvmStatic external fun reset(stream: Long)

    @JvmStatic external fun fork(stream: Long): Long

    @JvmStatic external fun snapshot(stream: Long): Long

    @JvmStatic external fun restore(stream: Long, snapshot: Long)

    @JvmStatic external fun freeSnapshot(snapshot: Long)

    @JvmStatic external fun save(stream: Long, path: ByteArray, flags: Int)

    @JvmStatic external fun toBytes(stream: Long): ByteArray

    /** A text for C, which ends it at a NUL and would take another path or name. */
    fun text(text: String): ByteArray {
        val bytes = try {
            text.encodeToByteArray(throwOnInvalidSequence = true)
        } catch (_: CharacterCodingException) {
            throw DstException(Status.ARGUMENT, "argument", "a text holds half a character (a lone surrogate)")
        }
        if (0 in bytes) throw DstException(Status.ARGUMENT, "argument", "a text holds a NUL, where C would end it")
        return bytes
    }

    // --- called by dst_jni.cpp

    @JvmStatic
    fun error(status: Int, code: ByteArray, message: ByteArray, tokens: LongArray?): DstException {
        val known = Status.entries.getOrElse(status) { Status.INTERNAL }
        return DstException(known, String(code), String(message), tokens ?: LongArray(0))
    }

    @JvmStatic
    fun tensor(dtype: Int, shape: LongArray, bytes: ByteArray): Tensor =
        Tensor(DType.entries[dtype], shape, java.nio.ByteBuffer.wrap(bytes))

    @JvmStatic fun dtype(tensor: Tensor): Int = tensor.dtype.ordinal

    @JvmStatic fun shape(tensor: Tensor): LongArray = tensor.shape

    @JvmStatic fun direct(tensor: Tensor): java.nio.ByteBuffer = tensor.direct()
}

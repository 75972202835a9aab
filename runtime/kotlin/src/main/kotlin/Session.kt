package dst

import java.util.concurrent.locks.ReentrantReadWriteLock
import kotlin.concurrent.read
import kotlin.concurrent.write

/**
 * How to open a bundle.
 *
 * @property threads threads inside one operator.
 * @property spin whether they keep their cores busy while they wait.
 * @property prepack false leaves the weights in their file: less memory, slower chunks.
 * @property checkStateEvery steps between two checks of the state for NaN.
 * @property hashFiles false compares the sizes of the files only.
 * @property lowering `fused`, `portable` or `other`; null for the best.
 * @property chunkSizes the T to run; null for all.
 */
data class Options(
    val threads: Int = 1,
    val spin: Boolean = false,
    val prepack: Boolean = true,
    val checkStateEvery: Int = 64,
    val hashFiles: Boolean = true,
    val lowering: String? = null,
    val chunkSizes: List<Int>? = null,
)

/**
 * What a session runs.
 *
 * @property tail `exact`, `pad` or `refuse`.
 * @property nominalT the T by which [Stream.advance] cuts.
 * @property vocabulary how many token ids there are; 0 for features.
 * @property itemValues values of one item.
 * @property stateBytes bytes of one state; a stream holds four.
 * @property tolerance the largest `golden_tolerance` of the graphs.
 */
data class SessionInfo(
    val name: String,
    val modelId: String,
    val bundleId: String,
    val precision: String,
    val tail: String,
    val chunkType: DType,
    val nominalT: Int,
    val lookback: Long,
    val lookahead: Long,
    val vocabulary: Long,
    val itemValues: Long,
    val outputNames: List<String>,
    val stateNames: List<String>,
    val stateBytes: Long,
    val tolerance: Double,
)

/**
 * An open bundle. Threads may share it. Close it at any time: its streams keep what they need.
 *
 * ```
 * Session.open("bundle").use { session ->
 *     session.stream().use { stream ->
 *         val logits = stream.advance(text.toByteArray()).getValue("logits") // whole chunks; the rest waits
 *         val rest = stream.flush().getValue("logits") // and now the rest
 *         stream.save("stream.state")
 *     }
 * }
 * ```
 */
class Session private constructor(private var handle: Long) : AutoCloseable {
    private val lock = ReentrantReadWriteLock()

    /** What the session runs. */
    val info: SessionInfo = describe()

    /** Load the graphs of all T now, so that the first steps do not wait for it. */
    fun loadGraphs() = call { Native.loadGraphs(it) }

    /** Start a stream at the initial state. [inputs] are what the model takes once for each stream. */
    fun stream(inputs: Map<String, Tensor> = emptyMap()): Stream = call {
        val names = inputs.keys.map(Native::text).toTypedArray()
        Stream(Native.start(it, names, inputs.values.toTypedArray()), info)
    }

    /**
     * Go on with a stream that was saved to a file, by any language.
     *
     * [allowPrecision] takes the state of another precision of the same model.
     */
    fun load(path: String, allowPrecision: Boolean = false): Stream =
        call { Stream(Native.load(it, Native.text(path), if (allowPrecision) 1 else 0), info) }

    /** Go on with a stream from its bytes, which [Stream.toBytes] or a file gave. */
    fun load(bytes: ByteArray, allowPrecision: Boolean = false): Stream =
        call { Stream(Native.fromBytes(it, bytes, if (allowPrecision) 1 else 0), info) }

    override fun close() = lock.write {
        Native.closeSession(handle)
        handle = 0
    }

    private inline fun <T> call(work: (Long) -> T): T = lock.read {
        check(handle != 0L) { "the session is closed" }
        work(handle)
    }

    private fun describe(): SessionInfo {
        val texts = Native.infoTexts(handle).map { String(it) }
        val numbers = Native.infoNumbers(handle)
        val names = texts.drop(5)
        val outputs = numbers[6].toInt()
        return SessionInfo(
            name = texts[0],
            modelId = texts[1],
            bundleId = texts[2],
            precision = texts[3],
            tail = texts[4],
            chunkType = DType.entries[numbers[0].toInt()],
            nominalT = numbers[1].toInt(),
            lookback = numbers[2],
            lookahead = numbers[3],
            vocabulary = numbers[4],
            itemValues = numbers[5],
            outputNames = names.take(outputs),
            stateNames = names.drop(outputs),
            stateBytes = numbers[7],
            tolerance = Native.tolerance(handle),
        )
    }

    companion object {
        /** The version of the native library. */
        val version: String by lazy { String(Native.version()) }

        /** Open a bundle, a folder. Its files are checked; a graph is loaded when it is first needed. */
        fun open(path: String, options: Options = Options()): Session {
            val numbers = intArrayOf(
                options.threads,
                if (options.spin) 1 else 0,
                if (options.prepack) 1 else 0,
                options.checkStateEvery,
                if (options.hashFiles) 1 else 0,
            )
            val lowering = options.lowering?.let(Native::text)
            return Session(Native.open(Native.text(path), numbers, lowering, options.chunkSizes?.toIntArray()))
        }
    }
}

package dst

import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.AtomicInteger
import java.util.concurrent.locks.ReentrantLock
import kotlin.concurrent.withLock

/**
 * How [Stream.generate] chooses tokens.
 *
 * @property temperature 0 takes the most likely token.
 * @property topK choose among so many tokens; 0 for all.
 * @property topP choose among the likeliest tokens that have this probability together; 1 for all.
 * @property seed null goes on with the random source of the stream, or makes one.
 * @property stop tokens that end the text.
 */
data class Sampling(
    val temperature: Double = 1.0,
    val topK: Long = 0,
    val topP: Double = 1.0,
    val seed: ULong? = null,
    val stop: List<Long> = emptyList(),
)

/** The random source of a stream: where it began, and how often it was asked. */
data class Sampler(val seed: ULong, val draws: ULong)

/** What a stream was at one moment. Close it when it is not needed any more. */
class Snapshot internal constructor(private var handle: Long) : AutoCloseable {
    @Synchronized
    internal fun <T> use(work: (Long) -> T): T {
        check(handle != 0L) { "the snapshot is closed" }
        return work(handle)
    }

    @Synchronized
    override fun close() {
        Native.freeSnapshot(handle)
        handle = 0
    }
}

/**
 * One live recurrence. A call that fails throws a [DstException] and leaves the stream as it was.
 *
 * Calls block. Calls of several threads wait for each other, so a coroutine may make them on any
 * dispatcher; [cancel] ends the call that runs now, from any thread.
 */
class Stream internal constructor(private var handle: Long, private val info: SessionInfo) : AutoCloseable {
    private val turn = ReentrantLock() // held during a call
    private val life = Any() // held while the handle is used without a turn, or given up
    private val cancels = AtomicInteger() // so far

    /** Step on one chunk, in the contract's shape with B = 1. With [last] answer for the last item only. */
    fun step(chunk: Tensor, last: Boolean = false, deadlineMs: Double = 0.0): Map<String, Tensor> = call {
        Native.step(it, chunk, if (last) 1 else 0, deadlineMs)
        outputs(it)
    }

    /**
     * Read items `[n, ...]`: time first, no batch axis. Whole chunks are stepped, the rest waits.
     *
     * A call that takes longer than [deadlineMs] milliseconds fails; 0 is no deadline.
     */
    fun advance(items: Tensor, last: Boolean = false, deadlineMs: Double = 0.0): Map<String, Tensor> = call {
        Native.advance(it, items, if (last) 1 else 0, deadlineMs)
        outputs(it)
    }

    /** The same for a model whose tokens are bytes. */
    fun advance(bytes: ByteArray, last: Boolean = false, deadlineMs: Double = 0.0): Map<String, Tensor> = call {
        Native.advanceBytes(it, bytes, if (last) 1 else 0, deadlineMs)
        outputs(it)
    }

    /** End the input by the tail rule of the contract. */
    fun flush(deadlineMs: Double = 0.0): Map<String, Tensor> = call {
        Native.flush(it, deadlineMs)
        outputs(it)
    }

    /** End the call that runs now; it throws [Status.CANCELLED]. Nothing happens where none runs. */
    fun cancel() = synchronized(life) {
        cancels.incrementAndGet()
        if (handle != 0L) Native.cancel(handle)
    }

    /**
     * Read a prompt and sample up to [count] tokens.
     *
     * A [count] that is never reached costs no memory: room is made for the tokens that there are.
     */
    fun generate(prompt: Tensor, count: Int, sampling: Sampling = Sampling()): LongArray = call {
        val before = cancels.get()
        val stop = sampling.stop.toLongArray()
        var seed = sampling.seed?.let { seed -> longArrayOf(seed.toLong()) }
        var items = prompt
        var tokens = LongArray(0)
        do { // The stream keeps its random source and the token that waits: the next block goes on from there.
            val block = minOf(count - tokens.size, maxOf(FIRST_BLOCK, tokens.size))
            try {
                if (cancels.get() != before) { // one that came between two blocks
                    throw DstException(Status.CANCELLED, "cancelled", "the call was cancelled")
                }
                tokens += Native.generate(
                    it, items, block, sampling.temperature, sampling.topK, sampling.topP, seed, stop,
                )
            } catch (error: DstException) {
                if (tokens.isEmpty()) throw error
                throw DstException(error.status, error.code, error.message.orEmpty(), tokens + error.tokens)
            }
            seed = null
            items = Tensor.allocate(prompt.dtype, 0)
        } while (tokens.size in 1 until count && tokens.last() !in stop)
        tokens
    }

    /** Copies of the state tensors, by name. */
    val state: Map<String, Tensor>
        get() = call { info.stateNames.withIndex().associate { (i, name) -> name to Native.state(it, i) } }

    /** How many items the stream has read, without those that wait. */
    val itemsConsumed: Long get() = call { Native.itemsConsumed(it) }

    /** How many items wait for their chunk to be full. */
    val pending: Int get() = call { Native.pending(it).toInt() }

    /** The random source; null where nothing was sampled. */
    val sampler: Sampler?
        get() = call { Native.sampler(it)?.let { (seed, draws) -> Sampler(seed.toULong(), draws.toULong()) } }

    /** Go back to the initial state. */
    fun reset() = call { Native.reset(it) }

    /** Make a second stream that goes on from here on its own. */
    fun fork(): Stream = call { Stream(Native.fork(it), info) }

    /** Remember what the stream is now. */
    fun snapshot(): Snapshot = call { Snapshot(Native.snapshot(it)) }

    /** Go back to a snapshot. */
    fun restore(snapshot: Snapshot) = call { stream -> snapshot.use { Native.restore(stream, it) } }

    /**
     * Write everything the stream is to a file, in one rename. What stood there is kept beside it as
     * `<name>.previous`. With [durable] false the call does not wait for the disk.
     */
    fun save(path: String, durable: Boolean = true) =
        call { Native.save(it, Native.text(path), if (durable) 0 else 1) }

    /** The bytes of the file that [save] writes. */
    fun toBytes(): ByteArray = call { Native.toBytes(it) }

    /** End the call that runs now, and free the memory of the stream; calls that wait find it closed. */
    override fun close() {
        do cancel() while (!turn.tryLock(1, TimeUnit.MILLISECONDS))
        try {
            synchronized(life) {
                Native.free(handle)
                handle = 0
            }
        } finally {
            turn.unlock()
        }
    }

    private companion object {
        const val FIRST_BLOCK = 1024
    }

    private inline fun <T> call(work: (Long) -> T): T = turn.withLock {
        check(handle != 0L) { "the stream is closed" }
        work(handle)
    }

    private fun outputs(stream: Long): Map<String, Tensor> =
        info.outputNames.withIndex().associate { (i, name) -> name to Native.output(stream, i) }
}

package dst.sample

import dst.DstException
import dst.Session
import dst.Status
import dst.Stream
import dst.Tensor
import java.io.File
import kotlin.math.exp
import kotlin.math.ln
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/** Reads text with a bundle of bytes, tells its surprise, and keeps the stream in a file. */
class Reader(bundle: File, private val file: File) : AutoCloseable {
    private val session = Session.open(bundle.path)
    private val stream: Stream
    private var expected: FloatArray? = null // of the next byte

    /** Whether the stream goes on where an earlier run of the app stopped. */
    val resumed: Boolean

    init {
        val saved = try {
            session.load(file.path)
        } catch (error: DstException) {
            if (error.status != Status.STATE_NOT_FOUND) throw error
            null
        }
        resumed = saved != null
        stream = saved ?: session.stream()
    }

    val bytesRead: Long get() = stream.itemsConsumed + stream.pending
    val stateBytes: Long get() = session.info.stateBytes

    /** Read a line; return its surprise in bits for each byte. A cancelled coroutine ends the call. */
    suspend fun read(line: String): Double = endedByCancel {
        val bytes = (line + "\n").toByteArray()
        bitsOf(bytes, listOf(stream.advance(bytes), stream.flush())) / bytes.size
    }

    /** Keep all that the stream is, in one rename: a kill at any moment leaves this or the one before. */
    fun save() = stream.save(file.path)

    override fun close() {
        stream.close()
        session.close()
    }

    private suspend fun <T> endedByCancel(work: () -> T): T = coroutineScope {
        // It must stand in its `try` before the work begins, so it is started here and now.
        val watch = launch(Dispatchers.IO, CoroutineStart.UNDISPATCHED) {
            try {
                awaitCancellation()
            } finally {
                stream.cancel() // where the work is done, this does nothing
            }
        }
        try {
            withContext(Dispatchers.Default) { work() }
        } catch (error: DstException) {
            throw if (error.status == Status.CANCELLED) CancellationException(error.message) else error
        } finally {
            watch.cancel()
        }
    }

    private fun bitsOf(bytes: ByteArray, answers: List<Map<String, Tensor>>): Double {
        var bits = 0.0
        var at = 0
        for (answer in answers) {
            val logits = answer.values.first() // [1, n, 256]: row i is about the byte after byte i
            val values = logits.floats()
            val ids = logits.shape.last().toInt()
            for (row in 0 until values.size / ids) {
                expected?.let { bits += surprise(it, bytes[at].toInt() and 0xff) }
                expected = values.copyOfRange(row * ids, (row + 1) * ids)
                at++
            }
        }
        return bits
    }

    private fun surprise(logits: FloatArray, id: Int): Double {
        val top = logits.max()
        return (ln(logits.sumOf { exp((it - top).toDouble()) }) - (logits[id] - top)) / ln(2.0)
    }
}

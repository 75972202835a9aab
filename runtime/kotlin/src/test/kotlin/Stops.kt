/**
 * Deadlines, cancels, closed handles and threads, with a bundle whose tokens are bytes.
 *
 *     java dst.conformance.StopsKt BUNDLE
 */
package dst.conformance

import dst.DType
import dst.DstException
import dst.Session
import dst.Status
import dst.Stream
import dst.Tensor
import java.util.concurrent.atomic.AtomicBoolean
import kotlin.concurrent.thread

private const val LINE = "2026-11-30 12:00:00 service answered in 12 ms\n"

private fun textOf(size: Int) = LINE.repeat(size / LINE.length + 1).toByteArray()

private fun statusOf(work: () -> Unit): Status = try {
    work()
    Status.OK
} catch (error: DstException) {
    error.status
}

private fun refuses(work: () -> Unit): Boolean = try {
    work()
    false
} catch (_: IllegalStateException) {
    true
} catch (_: IllegalArgumentException) {
    true
}

private fun deadline(stream: Stream) {
    val before = stream.toBytes()
    expect(statusOf { stream.advance(textOf(200_000), deadlineMs = 2.0) } == Status.DEADLINE) { "no deadline" }
    expect(stream.toBytes().contentEquals(before)) { "a deadline changes the stream" }
    expect(statusOf { stream.flush(deadlineMs = -1.0) } == Status.ARGUMENT) { "a wrong deadline is taken" }
}

/** Make a call that lasts, and do something beside it until it ends; return how it ended. */
private fun beside(stream: Stream, action: () -> Unit): Status {
    val done = AtomicBoolean()
    val other = thread {
        while (!done.get()) {
            Thread.sleep(1)
            action()
        }
    }
    val status = statusOf { stream.advance(textOf(400_000)) }
    done.set(true)
    other.join()
    return status
}

private fun cancel(stream: Stream) {
    stream.cancel() // no call runs: nothing happens
    val before = stream.toBytes()
    expect(beside(stream, stream::cancel) == Status.CANCELLED) { "no cancel" }
    expect(stream.toBytes().contentEquals(before)) { "a cancel changes the stream" }
    stream.advance(textOf(100))
}

private fun closed(bundle: String) {
    val session = Session.open(bundle)
    val stream = session.stream()
    val snapshot = stream.snapshot()
    session.close()
    session.close()
    expect(refuses { session.stream() }) { "a closed session starts streams" }
    stream.advance(textOf(100)) // a stream keeps what it needs of a closed session
    val closer = thread {
        Thread.sleep(5)
        stream.close()
    }
    // Where the call begins after that, it finds the stream closed.
    val ended = refuses { expect(statusOf { stream.advance(textOf(10_000_000)) } == Status.CANCELLED) { "it runs on" } }
    closer.join()
    println(if (ended) "closed before the call" else "closed during the call")
    expect(refuses { stream.flush() }) { "a closed stream goes on" }
    stream.cancel()
    snapshot.close()
    snapshot.close()
}

private fun share(bundle: String) = Session.open(bundle).use { session ->
    val states = arrayOfNulls<ByteArray>(4)
    states.indices.map { number ->
        thread {
            session.stream().use { stream ->
                repeat(5) {
                    stream.advance(textOf(90))
                    stream.flush()
                }
                states[number] = stream.toBytes()
            }
        }
    }.forEach(Thread::join)
    expect(states.all { it != null && it.contentEquals(states[0]!!) }) { "threads that share a session disturb each other" }
}

private fun wrongCalls(session: Session, stream: Stream) {
    expect(refuses { Tensor(DType.FLOAT32, longArrayOf(3), java.nio.ByteBuffer.allocate(8)) }) { "a short tensor is made" }
    expect(refuses { Tensor.allocate(DType.INT32, 2).floats() }) { "INT32 is read as FLOAT32" }
    val axes = longArrayOf(8)
    val text = Tensor(DType.INT64, axes, java.nio.ByteBuffer.allocateDirect(64))
    axes[0] = 1L shl 40 // the caller's own array, which the tensor has copied
    text.shape[0] = 1L shl 40
    stream.advance(text)
    val moved = Tensor(DType.INT64, longArrayOf(8), java.nio.ByteBuffer.allocate(64))
    moved.data.putLong(65).limit(16)
    stream.advance(moved)
    expect(moved.longs().size == 8 && moved.longs()[0] == 65L) { "a moved buffer is another tensor" }
    for (shape in listOf(longArrayOf(1L shl 32), longArrayOf(1L shl 29))) {
        val made = runCatching { Tensor(DType.INT64, shape, java.nio.ByteBuffer.allocateDirect(0)) }
        expect(made.isFailure) { "a tensor of ${shape[0]} values without bytes is made" }
    }
    val unknown = mapOf("päda" to Tensor.of(floatArrayOf(1f), 1))
    val error = runCatching { session.stream(unknown) }.exceptionOrNull() as? DstException
    expect(error?.code == "stream-input-unknown" && "päda" in error.message!!) { "unknown input: $error" }
}

private fun codeOf(work: () -> Unit): String = try {
    work()
    "no error"
} catch (error: DstException) {
    error.code
}

/** A text that C would end early, or that UTF-8 cannot write, is refused wherever it crosses. */
private fun texts(bundle: String, session: Session, stream: Stream) {
    val file = java.io.File.createTempFile("dst", ".state")
    val kept = file.readBytes()
    for (wrong in listOf("\u0000other", "\uD800")) {
        val input = mapOf("a$wrong" to Tensor.of(floatArrayOf(1f), 1))
        val calls = listOf<() -> Unit>(
            { stream.save(file.path + wrong) },
            { session.load(file.path + wrong).close() },
            { Session.open(bundle + wrong).close() },
            { Session.open(bundle, dst.Options(lowering = "fused$wrong")).close() },
            { session.stream(input).close() },
        )
        calls.forEachIndexed { i, call -> expect(codeOf(call) == "argument") { "text $i: ${codeOf(call)}" } }
    }
    expect(file.readBytes().contentEquals(kept)) { "a save wrote another file" }
    file.delete()
}

/** Generation takes memory for the tokens that there are, and is one call however many blocks it takes. */
private fun generate(session: Session) {
    val prompt = Tensor.of(LongArray(4) { 65L + it }, 4)
    val sampling = dst.Sampling(seed = 5uL)
    session.stream().use { stream ->
        session.stream().use { other ->
            val all = stream.generate(prompt, 1500, sampling)
            val first = other.generate(prompt, 700, sampling)
            val rest = other.generate(Tensor.allocate(DType.INT64, 0), 800)
            expect(all.contentEquals(first + rest)) { "blocks change what is generated" }
            expect(stream.toBytes().contentEquals(other.toBytes())) { "blocks change the stream" }
        }
        val any = (0L until session.info.vocabulary).toList()
        expect(stream.generate(prompt, Int.MAX_VALUE, dst.Sampling(stop = any)).size == 1) { "it does not stop" }
        val canceller = thread {
            Thread.sleep(300)
            stream.cancel()
        }
        val error = runCatching { stream.generate(prompt, Int.MAX_VALUE) }.exceptionOrNull() as? DstException
        canceller.join()
        expect(error?.status == Status.CANCELLED && error.tokens.isNotEmpty()) { "cancel: $error" }
    }
}

/** Objects of the native side are freed: many streams in turn leave the process as large as it was. */
private fun freed(session: Session) {
    fun turn() = repeat(200) {
        session.stream().use { stream ->
            stream.snapshot().use(stream::restore)
            stream.fork().use { it.advance(textOf(10)) }
        }
    }
    fun residentKib() = java.io.File("/proc/self/status").takeIf { it.exists() }?.readLines()
        ?.first { it.startsWith("VmRSS") }?.filter(Char::isDigit)?.toLong() ?: 0
    turn()
    val before = residentKib()
    turn()
    val grown = residentKib() - before
    // A leak of the streams alone would be all their states.
    val leak = 200 * 2 * 4 * session.info.stateBytes / 1024
    println("400 streams: $grown KiB more, a leak would be $leak KiB")
    expect(grown < leak / 4) { "memory grows: $grown KiB" }
}

fun main(args: Array<String>) {
    Session.open(args[0]).use { session ->
        session.stream().use { stream ->
            stream.advance("a beginning, part of which waits".toByteArray())
            deadline(stream)
            cancel(stream)
            wrongCalls(session, stream)
            texts(args[0], session, stream)
            generate(session)
        }
        freed(session)
    }
    closed(args[0])
    share(args[0])
    println("ok")
}

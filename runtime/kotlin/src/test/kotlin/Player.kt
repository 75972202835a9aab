/** Do the calls of one script of the conformance suite, and compare their results. */
package dst.conformance

import com.google.gson.JsonObject
import com.google.gson.JsonParser
import dst.DstException
import dst.Options
import dst.Sampling
import dst.Session
import dst.Snapshot
import dst.Stream
import dst.Tensor
import java.io.File

/** A result is not what the suite expects; the message says where. */
class Wrong(message: String) : Exception(message)

fun expect(good: Boolean, what: () -> String) {
    if (!good) throw Wrong(what())
}

fun JsonObject.text(field: String, default: String? = null): String = get(field)?.asString ?: default!!

/** What one call gave; null is: nothing to compare. */
private class Found(val outputs: Map<String, Tensor>? = null, val tokens: LongArray? = null)

class Player(
    private val root: File,
    script: JsonObject,
    private val arrays: Map<String, Tensor>,
    private val work: File,
) : AutoCloseable {
    private val session = open(script)
    private val streams = mutableMapOf<String, Stream>()
    private val snapshots = mutableMapOf<String, Snapshot>()

    fun stream(name: String): Stream = streams.getValue(name)

    fun run(call: JsonObject) {
        val found = try {
            act(call)
        } catch (error: DstException) {
            val expected = call.text("error", "no error")
            return expect(error.code == expected) { "${error.code} (${error.message}), expected $expected" }
        }
        expect("error" !in call.keySet()) { "no error, expected ${call.text("error")}" }
        call["expect"]?.let { compare(call, it.asJsonObject, found) }
    }

    override fun close() {
        streams.values.forEach(Stream::close)
        snapshots.values.forEach(Snapshot::close)
        session.close()
    }

    private fun open(script: JsonObject): Session {
        val told = script["open"]?.asJsonObject ?: JsonObject()
        val options = Options(
            chunkSizes = told["chunk_sizes"]?.asJsonArray?.map { it.asInt },
            checkStateEvery = told["check_state_every"]?.asInt ?: 64,
        )
        return Session.open("$root/bundles/${script.text("bundle")}", options)
    }

    private fun add(name: String, stream: Stream): Found {
        streams.put(name, stream)?.close()
        return Found()
    }

    private fun act(call: JsonObject): Found {
        val kind = call.text("call")
        if (kind == "stream") {
            val inputs = call["inputs"]?.asJsonObject?.entrySet().orEmpty()
            return add(call.text("as"), session.stream(inputs.associate { it.key to arrays.getValue(it.value.asString) }))
        }
        if (kind == "load") {
            val path = call["file"]?.let { "$root/${it.asString}" } ?: "$work/${call.text("from")}"
            return add(call.text("as"), session.load(path, call["allow_precision"]?.asBoolean ?: false))
        }
        val stream = stream(call.text("stream"))
        val last = call["last"]?.asBoolean ?: false
        when (kind) {
            "look" -> {}
            "step" -> return Found(outputs = stream.step(arrays.getValue(call.text("chunk")), last))
            "advance" -> return Found(outputs = stream.advance(arrays.getValue(call.text("items")), last))
            "flush" -> return Found(outputs = stream.flush())
            "generate" -> return Found(tokens = generate(stream, call))
            "snapshot" -> snapshots.put(call.text("as"), stream.snapshot())?.close()
            "restore" -> stream.restore(snapshots.getValue(call.text("from")))
            "fork" -> add(call.text("as"), stream.fork())
            "reset" -> stream.reset()
            "save" -> stream.save("$work/${call.text("as")}")
            "bytes" -> {
                val bytes = stream.toBytes()
                call["same_as"]?.let { same ->
                    val file = File(root, same.asString)
                    expect(bytes.contentEquals(file.readBytes())) { "other bytes than $file" }
                }
                add(call.text("as"), session.load(bytes))
            }
            else -> throw Wrong("no such call: $kind")
        }
        return Found()
    }

    private fun generate(stream: Stream, call: JsonObject): LongArray {
        val sampling = Sampling(
            temperature = call["temperature"]?.asDouble ?: 1.0,
            topK = call["top_k"]?.asLong ?: 0,
            topP = call["top_p"]?.asDouble ?: 1.0,
            seed = call["seed"]?.asString?.toULong(),
            stop = call["stop"]?.asJsonArray?.map { it.asLong }.orEmpty(),
        )
        return stream.generate(arrays.getValue(call.text("prompt")), call["items"].asInt, sampling)
    }

    private fun compare(call: JsonObject, expected: JsonObject, found: Found) {
        val stream = stream(call.text("stream"))
        val exact = call["exact"]?.asBoolean ?: true
        for ((key, right) in expected.entrySet()) {
            val same = when (key) {
                "outputs" -> compareAll(key, found.outputs.orEmpty(), right.asJsonObject, exact)
                "state" -> compareAll(key, stream.state, right.asJsonObject, exact)
                "tokens" -> right.asJsonArray.map { it.asLong } == found.tokens?.toList()
                "items_consumed" -> right.asLong == stream.itemsConsumed
                "pending" -> right.asInt == stream.pending
                "sampler" -> {
                    val sampler = stream.sampler
                    right == JsonParser.parseString(
                        if (sampler == null) "null" else """{"seed": "${sampler.seed}", "draws": "${sampler.draws}"}""",
                    )
                }
                else -> throw Wrong("no such expectation: $key")
            }
            expect(same) { "$key is not $right" }
        }
    }

    private fun compareAll(what: String, found: Map<String, Tensor>, names: JsonObject, exact: Boolean): Boolean {
        expect(found.keys == names.keySet()) { "$what has ${found.keys}, expected ${names.keySet()}" }
        for ((name, ref) in names.entrySet()) {
            compareOne("$what $name", found.getValue(name), arrays.getValue(ref.asString), exact)
        }
        return true
    }

    private fun compareOne(where: String, found: Tensor, right: Tensor, exact: Boolean) {
        expect(found.dtype == right.dtype && found.shape.contentEquals(right.shape)) { "$where is $found, expected $right" }
        if (found.bytes().contentEquals(right.bytes())) return
        expect(!exact && found.dtype.name.startsWith("FLOAT")) { "$where has other bits than expected" }
        val error = relativeError(found, right)
        expect(error <= session.info.tolerance) { "$where has an error of $error" }
    }
}

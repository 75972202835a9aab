/** Make malformed bundles and saved states, and say by which code they are refused. */
package dst.conformance

import com.google.gson.JsonArray
import com.google.gson.JsonObject
import dst.DstException
import dst.Session
import dst.Tensor
import java.io.File
import java.nio.file.Files
import java.nio.file.Path
import kotlin.experimental.xor

/** The code of the error that a case gives; `no error` where there is none. */
fun codeOf(root: File, case: JsonObject, work: File, files: Map<String, Tensor>, ofBundle: Boolean): String {
    val good = File(root, "bundles/${case.text("bundle")}")
    try {
        if (ofBundle) {
            val bundle = File(work, "bundle")
            good.copyRecursively(bundle)
            edit(bundle, case["edits"].asJsonArray, files)
            Session.open(bundle.path).use { if (case.text("after", "") == "step") it.loadGraphs() }
        } else {
            val state = File(work, "state")
            case["state"]?.let { File(root, "states/python/${it.asString}.state").copyTo(state) }
            edit(work, case["edits"].asJsonArray, files)
            Session.open(good.path).use { it.load(state.path).close() }
        }
    } catch (error: DstException) {
        return error.code
    }
    return "no error"
}

private fun edit(place: File, edits: JsonArray, files: Map<String, Tensor>) {
    for (what in edits.map { it.asJsonObject }) {
        val file = File(place, what.text("file"))
        fun bytes() = if (file.exists()) file.readBytes() else ByteArray(0)
        when (val kind = what.text("edit")) {
            "put" -> file.writeBytes(files.getValue(what.text("from")).bytes())
            "remove" -> expect(file.delete()) { "cannot remove $file" }
            "append" -> file.writeBytes(bytes() + what.text("hex").chunked(2).map { it.toInt(16).toByte() })
            "truncate" -> file.writeBytes(bytes().copyOf(minOf(bytes().size, what["size"].asInt)))
            "flip" -> file.writeBytes(
                bytes().also { it[what["at"].asInt] = it[what["at"].asInt] xor (1 shl what["bit"].asInt).toByte() },
            )
            "link" -> Files.createSymbolicLink(file.toPath(), Path.of(what.text("to")))
            "folder" -> expect(file.mkdir()) { "cannot make $file" }
            "pipe" -> expect(ProcessBuilder("mkfifo", file.path).start().waitFor() == 0) { "cannot make $file" }
            else -> throw Wrong("no such edit: $kind")
        }
    }
}

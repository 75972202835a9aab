/**
 * Run the conformance suite of tests/conformance with the Kotlin package on the JVM.
 *
 *     java dst.conformance.MainKt SUITE WORK           exits with 1 where anything is not as expected
 *     java dst.conformance.MainKt SUITE WORK --save    and saves the states that the suite wants of each language
 */
package dst.conformance

import com.google.gson.JsonObject
import com.google.gson.JsonParser
import java.io.File
import kotlin.system.exitProcess

private fun emptied(folder: File): File = folder.apply {
    deleteRecursively()
    mkdirs()
}

private fun runScript(root: File, group: String, name: String, work: File, save: Boolean) {
    val text = File(root, "scripts/$group/$name.json").readText()
    val each = JsonParser.parseString(text).asJsonObject["each_language"]?.asBoolean ?: false
    val languages = if (each) File(root, "states").list()!!.sorted() else listOf("")
    val arrays = readArrays(File(root, "scripts/$group.safetensors"), "$name/")
    for (language in languages) {
        val script = JsonParser.parseString(text.replace("{language}", language)).asJsonObject
        Player(root, script, arrays, emptied(work)).use { player ->
            for ((number, call) in script["calls"].asJsonArray.map { it.asJsonObject }.withIndex()) {
                try {
                    player.run(call)
                } catch (error: Exception) {
                    throw Wrong("call $number (${call.text("call")}) $language: ${error.message ?: error}")
                }
            }
            if (save && group == "save") {
                val state = File(root, "states/kotlin/$name.state").apply { parentFile.mkdirs() }
                player.stream("a").save("$work/state")
                File(work, "state").copyTo(state, overwrite = true)
            }
        }
    }
}

/** Runs the cases of the suite one after the other, and counts. */
private class Tally {
    var ran = 0
    var failed = 0

    fun attempt(name: String, action: () -> Unit) {
        ran++
        try {
            action()
        } catch (error: Exception) {
            failed++
            println("FAILED $name: ${error.message ?: error}")
        }
    }
}

private fun runMalformed(root: File, kind: String, work: File, tally: Tally) {
    val files = readArrays(File(root, "malformed/files.safetensors"))
    val cases = JsonParser.parseString(File(root, "malformed/$kind.json").readText()).asJsonArray
    for (case: JsonObject in cases.map { it.asJsonObject }) {
        tally.attempt("malformed ${case.text("name")}") {
            val code = codeOf(root, case, emptied(work), files, ofBundle = kind == "bundles")
            expect(code == case.text("code")) { "$code, expected ${case.text("code")}" }
        }
    }
}

fun main(args: Array<String>) {
    if (args.size < 2) {
        System.err.println("usage: dst.conformance.MainKt SUITE WORK [--save]")
        exitProcess(2)
    }
    val root = File(args[0])
    val work = File(args[1], "conformance")
    val tally = Tally()
    for (group in File(root, "scripts").listFiles { file -> file.isDirectory }!!.sorted()) {
        for (file in group.listFiles { file -> file.extension == "json" }!!.sorted()) {
            val name = file.nameWithoutExtension
            tally.attempt("${group.name}/$name") { runScript(root, group.name, name, work, "--save" in args) }
        }
    }
    for (kind in listOf("bundles", "states")) runMalformed(root, kind, work, tally)
    work.deleteRecursively()
    println("${tally.ran - tally.failed} of ${tally.ran} passed")
    exitProcess(if (tally.failed == 0 && tally.ran > 0) 0 else 1)
}

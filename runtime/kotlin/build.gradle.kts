// The Kotlin package for the JVM: `gradle build`, and `gradle conformance` for the suite of all languages.
// CMake builds the JNI library; `gradle -Ponnxruntime=/opt/onnxruntime` names ONNX Runtime's folder.
plugins {
    kotlin("jvm") version "2.4.20"
    `java-library`
}

group = "dst"
version = file("../../src/dst/__init__.py").readLines()
    .first { it.startsWith("__version__") }.substringAfter('"').substringBefore('"')

repositories { mavenCentral() }

dependencies { testImplementation("com.google.code.gson:gson:2.13.2") }

kotlin {
    jvmToolchain(17)
    compilerOptions { allWarningsAsErrors = true }
}

val jni = layout.buildDirectory.dir("jni").get().asFile

val configureJni by tasks.registering(Exec::class) {
    val found = providers.gradleProperty("onnxruntime").map { listOf("-DONNXRUNTIME_ROOT=$it") }.getOrElse(emptyList())
    commandLine(listOf("cmake", "-S", "$projectDir", "-B", "$jni") + found)
}

val buildJni by tasks.registering(Exec::class) {
    dependsOn(configureJni)
    commandLine("cmake", "--build", "$jni", "--target", "dst_jni")
}

tasks.register<JavaExec>("conformance") {
    dependsOn(buildJni)
    classpath = sourceSets.test.get().runtimeClasspath
    mainClass = "dst.conformance.MainKt"
    jvmArgs("-Xcheck:jni", "-Djava.library.path=$jni")
    args(file("../../tests/conformance").path, temporaryDir.path)
}

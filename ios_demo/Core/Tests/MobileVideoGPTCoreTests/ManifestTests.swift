import XCTest

@testable import MobileVideoGPTCore

/// A manifest is believed only if all of it is as declared.
final class ManifestTests: XCTestCase {
    /// The line that refuses a manifest with another value at a path; nil takes the entry out. It is signed: only the value is wrong.
    private func line(_ path: [String], _ value: JSONValue?) throws -> String {
        func changed(_ place: JSONValue, _ path: ArraySlice<String>) -> JSONValue? {
            guard let key = path.first else { return value }
            if case .array(var items) = place, let index = Int(key) {
                items[index] = changed(items[index], path.dropFirst()) ?? .null
                return .array(items)
            }
            guard case .object(var members) = place else { return place }
            members[key] = changed(members[key] ?? .null, path.dropFirst())
            return .object(members)
        }
        do {
            _ = try Fixture.manifest { members in
                if case .object(let other)? = changed(.object(members), path[...]) { members = other }
            }
            return "accepted"
        } catch let error as VideoGPTError {
            return error.message
        }
    }

    func testAWholeManifestIsRead() throws {
        let manifest = try Fixture.manifest()
        XCTAssertEqual(manifest.visualTokens, 22)
        XCTAssertEqual(manifest.graph(.decoder).inputs.map(\.name), ["embeds", "position", "last"])
        XCTAssertEqual(manifest.graph(.decoder).inputs[0].shape, [.axis("tokens"), .size(4)])
        XCTAssertEqual(manifest.decoder.functions.map(\.tokens), [32, 8, 1])
        XCTAssertEqual(manifest.graph(.decoder).inputs[0].about, "é \" \\ \t")
    }

    func testWhatIsWrongIsNamedWithItsPlace() throws {
        let decoder = ["graphs", "decoder"]
        let wrong: [(path: [String], value: JSONValue?, says: String)] = [
            (["schema_version"], .number("4"), "newer version of the tool (schema 4, this app reads 3): update the app"),
            (["schema_version"], .number("2"), "older version of the tool (schema 2, this app reads 3): build the bundle again"),
            (["schema_version"], .bool(true), "schema_version must be an integer, not true"),
            (["target"], .string("windows"), "target must be one of executorch, coreml, onnx, not 'windows'"),
            (["verified"], .number("1"), "verified must be true or false, not 1"),
            (["prompt"], nil, "prompt is missing"),
            (["graphs", "head"], .null, "graphs.head is not known to this version"),
            (decoder, nil, "graphs.decoder is missing"),
            (decoder + ["name"], .string("head"), "graphs.decoder.name must be 'decoder', not 'head'"),
            (decoder + ["file"], .string("../x"), "graphs.decoder.file must be a relative path inside the bundle"),
            (decoder + ["file"], .string("/x"), "graphs.decoder.file must be a relative path"),
            (decoder + ["sha256"], .string("AB"), "graphs.decoder.sha256 must be a SHA-256 in lower-case hex"),
            (decoder + ["bytes"], .number("-1"), "graphs.decoder.bytes must be 0 or more, not -1"),
            (decoder + ["bytes"], .number("1.0"), "graphs.decoder.bytes must be an integer, not 1.0"),
            (decoder + ["bytes"], .number("99999999999999999999"), "graphs.decoder.bytes must be an integer"),
            (decoder + ["delegated"], .number("1.5"), "graphs.decoder.delegated must be a share from 0 to 1"),
            (decoder + ["inputs", "0", "shape", "0"], .number("0"), "graphs.decoder.inputs[0].shape[0] must be 1 or more, not 0"),
            (decoder + ["inputs", "0", "shape", "0"], .string("rows"), "a shape names 'rows'"),
            (decoder + ["inputs", "1", "dtype"], .string("float8"), "graphs.decoder.inputs[1].dtype must be one of"),
            (["graphs", "image_projector", "outputs"], .array([]), "graphs.image_projector has other inputs or outputs"),
            (["decoder", "details"], .object([:]), "decoder.details does not say how to drive the decoder"),
            (["preprocessing", "image_mean"], .array([]), "preprocessing.image_mean must be a list of 3, not a list of 0"),
            (["preprocessing", "chunk_frames"], .number("5"), "preprocessing.chunk_frames must be a divisor of 16"),
            (["preprocessing", "key_frames_per_chunk"], .number("9"), "must be at most 8"),
            (["preprocessing", "tie_tolerance"], .number("1e999"), "must be a finite number"),
            (["files", "a/../b"], .object([:]), "files.a/../b.sha256 is missing"),
            (["created"], .string("today"), "created must be a UTC time like"),
            (["model", "decoder", "vocab"], .string("260"), "model.decoder.vocab must be an integer, not '260'"),
            (["prompt", "image"], .string(""), "prompt.image must be a name, not empty"),
            (["accuracy"], .array([]), "accuracy must be an object, not a list of 0"),
        ]
        for one in wrong {
            let found = try line(one.path, one.value)
            XCTAssertTrue(found.contains(one.says), "\(found) has not: \(one.says)")
            XCTAssertFalse(found.contains("\n"))
        }
    }

    func testAPathOfAFileCannotLeaveTheBundle() throws {
        let entry = JSONValue.object(["sha256": .string(String(repeating: "0", count: 64)), "bytes": .number("1")])
        for path in ["a/../b", "..", "/etc/passwd", "a//b", "", "a b", "ä", "a\nb"] {
            XCTAssertTrue(try line(["files", path], entry).contains("a key of files must be a relative path"), path)
        }
        for path in ["a", "a/b.c", ".hidden", "...", "x-_.9"] { XCTAssertEqual(try line(["files", path], entry), "accepted", path) }
    }

    func testAnEditByHandIsSeen() throws {
        let text = String(decoding: try Fixture.manifestData(), as: UTF8.self)
        let edited = text.replacingOccurrences(of: #""bits_per_weight":4.5"#, with: #""bits_per_weight":4.6"#)
        XCTAssertNotEqual(text, edited)
        XCTAssertThrowsError(try Manifest(data: Data(edited.utf8), hashing: PlainHashing())) {
            XCTAssertTrue("\($0)".contains("after an edit by hand"))
        }
        let spaced = text.replacingOccurrences(of: ",", with: " ,\n ")  // its form does not count
        XCTAssertNoThrow(try Manifest(data: Data(spaced.utf8), hashing: PlainHashing()))
    }

    func testWhatIsNoJSONIsRefused() throws {
        let texts = [
            "", "{", "[1,]", "{\"a\":1,}", "{\"a\" 1}", "nul", "01", "1.", "-", "1e", "\"\\x\"", "\"\\ud800\"", "\"a\nb\"", "\"", "NaN",
            "{} {}", String(repeating: "[", count: 100_000), "\"\\u12\"",
        ]
        for text in texts {
            XCTAssertThrowsError(try Manifest(data: Data(text.utf8), hashing: PlainHashing()), text.prefix(20).description) {
                XCTAssertTrue("\($0)".contains("not valid JSON"), "\($0)")
            }
        }
        XCTAssertThrowsError(try JSONValue(parsing: Data([0x22, 0xFF, 0x22])))
        for text in ["3", "[]", "null"] { XCTAssertThrowsError(try Manifest(data: Data(text.utf8), hashing: PlainHashing())) }
    }

    func testJSONReadsAndWritesWhatPythonDoes() throws {
        let text = #" {"b": [1, -0.5e-05, true, null], "a": "\u00e9\ud83d\ude00\n\/\u007f", "é": ""} "#
        XCTAssertEqual(
            try JSONValue(parsing: Data(text.utf8)).canonical,
            #"{"a":"\u00e9\ud83d\ude00\n/"# + "\u{7f}" + #"","b":[1,-0.5e-05,true,null],"\u00e9":""}"#)
    }

    func testEveryErrorIsOneLineThatSaysWhatToDo() {
        let errors: [VideoGPTError] = [
            .notABundle(folder: "f"), .missingFile("f"), .unreadableFile("f", reason: "r"), .changedFile("f"), .invalidManifest("l"),
            .newerSchema(found: 4, read: 3), .olderSchema(found: 2, read: 3), .wrongTarget(found: "onnx", wanted: ["coreml"]),
            .missingOperators(["a::b"]), .doesNotFitMemory(needed: 3_000_000_000, available: 20_000_000), .noTokenizer,
            .unreadableTokenizer(reason: "r"), .invalidGolden("l"), .graphFailed(graph: "g", reason: "r"), .logitsNotFinite,
            .videoUnreadable(reason: "r"), .noVideoTrack, .unsupportedPixels(format: "10-bit"), .videoWithoutFrames,
            .promptTooLong(tokens: 9, after: 0, context: 8, visual: 7), .badAddress(""), .invalidPin("x"), .offline(reason: "r"),
            .serverRefused(status: 404, file: "f"), .wrongPin(expected: "a", found: "b"), .invalidChecksums(reason: "r"),
            .diskFull(needed: 5, available: 4), .cannotWrite(path: "p", reason: "r"),
        ]
        for error in errors {
            XCTAssertTrue(error.message.contains(": "), error.message)
            XCTAssertFalse(error.message.contains("\n"))
            XCTAssertEqual(error.localizedDescription, error.message)  // what a screen shows
        }
        XCTAssertTrue(VideoGPTError.doesNotFitMemory(needed: 3_000_000_000, available: 20_000_000).message.contains("3.0 GB"))
    }
}

final class HashingTests: XCTestCase {
    /// The tests' own SHA-256, against the standard's examples: all other hashes stand on it.
    func testTheStandardsExamples() {
        let hashing = PlainHashing()
        XCTAssertEqual(hashing.hex([]), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        XCTAssertEqual(hashing.hex(Array("abc".utf8)), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        let million = Array(repeating: UInt8(ascii: "a"), count: 100_000)
        var state = hashing.sha256()
        for _ in 0..<10 { million.withUnsafeBytes { state.update($0) } }
        XCTAssertEqual(hex(state.finish()), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0")
    }
}

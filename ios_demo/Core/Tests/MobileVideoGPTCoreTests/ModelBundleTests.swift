import XCTest

@testable import MobileVideoGPTCore

/// A bundle folder is believed only as far as its hashes go.
final class ModelBundleTests: XCTestCase {
    private let host = BundleHost(availableBytes: 1000, targets: ["coreml"])

    /// A whole small bundle: seven packages of two files each, and a tokenizer.json.
    static func write(
        _ folder: URL, _ change: (inout [String: JSONValue]) -> Void = { _ in }
    ) throws -> [String: Data] {
        var files: [String: Data] = ["tokenizer.json": Data("{}\n".utf8)]
        for graph in GraphName.allCases {
            files["\(graph.rawValue).mlpackage/Manifest.json"] = Data("\(graph)".utf8)
            files["\(graph.rawValue).mlpackage/Data/weights/weight.bin"] = Data((0..<200).map { UInt8($0) })
        }
        let hashing = PlainHashing()
        func hash(_ data: Data) -> String { hashing.hex(Array(data)) }
        files["manifest.json"] = try Fixture.manifestData { members in
            members["files"] = .object(["tokenizer.json": .object(["sha256": .string(hash(Data("{}\n".utf8))), "bytes": .number("3")])])
            guard case .object(var graphs)? = members["graphs"] else { return }
            for name in graphs.keys {
                guard case .object(var graph)? = graphs[name] else { continue }
                let inside = files.filter { $0.key.hasPrefix("\(name).mlpackage/") }
                let listing = ["Data/weights/weight.bin", "Manifest.json"].map { path in
                    "\(hash(inside["\(name).mlpackage/\(path)"] ?? Data()))  \(path)\n"
                }
                graph["sha256"] = .string(hash(Data(listing.joined().utf8)))
                graph["bytes"] = .number("\(inside.values.reduce(0) { $0 + $1.count })")
                graphs[name] = .object(graph)
            }
            members["graphs"] = .object(graphs)
            members["bundle_bytes"] = .number("\(files.values.reduce(0) { $0 + $1.count })")
            change(&members)
        }
        for (path, data) in files {
            let file = folder.appending(path: path)
            try FileManager.default.createDirectory(at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
            try data.write(to: file)
        }
        return files
    }

    private func open(_ folder: URL, stamps: URL? = nil, verify: Bool = false) throws -> (ModelBundle, hashed: Bool) {
        var hashed = false
        let hashing = PlainHashing()
        let bundle = try ModelBundle.open(folder, host: host, stamps: stamps, hashing: hashing, verify: verify) { _ in hashed = true }
        return (bundle, hashed)
    }

    func testAWholeBundleIsOpened() throws {
        let folder = try temporaryFolder(self)
        _ = try Self.write(folder)
        try Data("finder".utf8).write(to: folder.appending(path: "decoder.mlpackage/Data/.DS_Store"))  // does not count
        var shares: [Double] = []
        let bundle = try ModelBundle.open(folder, host: host, stamps: nil, hashing: PlainHashing()) { shares.append($0) }
        XCTAssertEqual(shares.last, 1)
        XCTAssertEqual(shares, shares.sorted())
        XCTAssertEqual(bundle.graphURL(.decoder).lastPathComponent, "decoder.mlpackage")
        XCTAssertEqual(bundle.tokenizerURL?.lastPathComponent, "tokenizer.json")
    }

    func testWhatIsMissingOrChangedIsNamed() throws {
        let changes: [(file: String, contents: String?, error: VideoGPTError)] = [
            ("manifest.json", nil, .notABundle(folder: "b")),
            ("tokenizer.json", nil, .missingFile("tokenizer.json")),
            ("tokenizer.json", "[]\n", .changedFile("tokenizer.json")),  // of the same size
            ("tokenizer.json", "{ }\n", .changedFile("tokenizer.json")),
            ("decoder.mlpackage", nil, .missingFile("decoder.mlpackage")),
            ("decoder.mlpackage/Manifest.json", nil, .changedFile("decoder.mlpackage")),
            ("decoder.mlpackage/Manifest.json", "Decoder", .changedFile("decoder.mlpackage")),
            ("decoder.mlpackage/more", "", .changedFile("decoder.mlpackage")),  // an empty file more
        ]
        for change in changes {
            let folder = try temporaryFolder(self).appending(path: "b")
            _ = try Self.write(folder)
            let file = folder.appending(path: change.file)
            if let contents = change.contents {
                try Data(contents.utf8).write(to: file)
            } else {
                try FileManager.default.removeItem(at: file)
            }
            assertThrows(change.error, try self.open(folder))
        }
        assertThrows(.notABundle(folder: "none"), try open(try temporaryFolder(self).appending(path: "none")))
    }

    func testHashesAreRememberedUntilAFileChanges() throws {
        let (folder, stamps) = (try temporaryFolder(self), try temporaryFolder(self).appending(path: "stamps"))
        _ = try Self.write(folder)
        XCTAssertTrue(try open(folder, stamps: stamps).hashed)
        XCTAssertFalse(try open(folder, stamps: stamps).hashed)
        XCTAssertTrue(try open(folder, stamps: stamps, verify: true).hashed)
        let file = folder.appending(path: "tokenizer.json")
        try FileManager.default.setAttributes([.modificationDate: Date(timeIntervalSince1970: 1)], ofItemAtPath: file.path)
        XCTAssertTrue(try open(folder, stamps: stamps).hashed)
        XCTAssertFalse(try open(folder, stamps: stamps).hashed)
        try Data("[]\n".utf8).write(to: file)
        assertThrows(.changedFile("tokenizer.json"), try self.open(folder, stamps: stamps))
        assertThrows(.changedFile("tokenizer.json"), try self.open(folder, stamps: stamps))  // nothing was remembered
        for stamp in try FileManager.default.contentsOfDirectory(at: stamps, includingPropertiesForKeys: nil) {
            try Data("{".utf8).write(to: stamp)
        }
        try Data("{}\n".utf8).write(to: file)
        XCTAssertTrue(try open(folder, stamps: stamps).hashed)  // a damaged stamp is none
    }

    func testWhatThisHostCannotRunIsRefusedBeforeAnythingIsHashed() throws {
        func refused(_ host: BundleHost, _ change: (inout [String: JSONValue]) -> Void) throws -> VideoGPTError? {
            let folder = try temporaryFolder(self)
            _ = try Self.write(folder, change)
            do {
                _ = try ModelBundle.open(folder, host: host, stamps: nil, hashing: PlainHashing()) { _ in XCTFail("hashed") }
            } catch let error as VideoGPTError {
                return error
            }
            return nil
        }
        XCTAssertEqual(
            try refused(host) { $0["target"] = .string("onnx") }, .wrongTarget(found: "onnx", wanted: ["coreml"]))
        XCTAssertEqual(
            try refused(host) { $0["custom_operators"] = .array([.string("mobile_videogpt::scan.out")]) },
            .missingOperators(["mobile_videogpt::scan.out"]))
        XCTAssertEqual(
            try refused(BundleHost(availableBytes: 999, targets: ["coreml"])) { _ in }, .doesNotFitMemory(needed: 1000, available: 999))
    }

    func testTheBundleOfTheEnvironmentIsWhole() throws {
        let folder = try bundleFolder()
        let bundle = try ModelBundle.open(
            folder, host: BundleHost(availableBytes: .max, targets: ["coreml"]), stamps: nil, hashing: PlainHashing())
        XCTAssertEqual(bundle.manifest.visualTokens, 2402)
        XCTAssertTrue(bundle.manifest.verified)
        XCTAssertNoThrow(try Checksums(Data(contentsOf: folder.appending(path: "SHA256SUMS"))))
    }
}

import XCTest

@testable import MobileVideoGPTCore

/// The rule of `decoder.details`, and that the backend for packages drives an engine by it.
final class DecoderCallsTests: XCTestCase {
    /// An engine that notes its calls and echoes what the decoder's last row holds.
    private final class Engine: PackageEngine {
        var calls: [(graph: GraphName, function: String?, inputs: [String: Feature])] = []
        var loaded: Set<GraphName> = []

        func load(_ graph: GraphName) { loaded.insert(graph) }
        func release(_ graph: GraphName) { loaded.remove(graph) }
        func run(_ graph: GraphName, function: String?, inputs: [String: Feature], output: String) throws -> FloatTensor {
            calls.append((graph, function, inputs))
            if case .int32(let ids)? = inputs["ids"] {
                return FloatTensor(shape: [ids.count, 4], data: ids.flatMap { [Float($0), 0, 0, 0] })
            }
            guard case .float32(let embeds)? = inputs["embeds"] else { return FloatTensor(shape: [1], data: [Float(output.count)]) }
            guard case .int32(let last)? = inputs["last"] else { return embeds.slice(0..<1) }
            return embeds.slice(Int(last[0])..<Int(last[0]) + 1)
        }
    }

    private func manifest(_ functions: [(String, Int)], slots: Int, context: Int) throws -> Manifest {
        try Fixture.manifest { members in
            members["decoder"] = .object([
                "interface": .string("coreml_state"), "max_context": .number("\(context)"),
                "details": .object([
                    "functions": .array(functions.map { .object(["name": .string($0.0), "tokens": .number("\($0.1)")]) }),
                    "slots": .number("\(slots)"),
                ]),
            ])
        }
    }

    private func plan(_ count: Int, at position: Int, slots: Int = 4096) throws -> [String] {
        let functions = [("prefill_512", 512), ("prefill_64", 64), ("decode", 1)]
        return try DecoderCalls(manifest(functions, slots: slots, context: slots).decoder).plan(count, at: position).map {
            "\($0.function) \($0.rows) at \($0.position), last \($0.last.map(String.init) ?? "none")"
        }
    }

    func testAPromptIsCutByTheFewestTokensThatTakeAllThatAreLeft() throws {
        XCTAssertEqual(try plan(1, at: 7), ["decode 0..<1 at 7, last none"])
        XCTAssertEqual(try plan(2, at: 0), ["prefill_64 0..<2 at 0, last 1"])
        XCTAssertEqual(try plan(65, at: 3), ["prefill_512 0..<65 at 3, last 64"])
        XCTAssertEqual(
            try plan(1025, at: 0),
            ["prefill_512 0..<512 at 0, last 511", "prefill_512 512..<1024 at 512, last 511", "decode 1024..<1025 at 1024, last none"])
        XCTAssertEqual(try plan(2415, at: 0).count, 5)
        XCTAssertEqual(try plan(0, at: 5), [])
    }

    func testNoCallWritesBeyondTheCache() throws {
        XCTAssertEqual(try plan(65, at: 4031), ["prefill_64 0..<64 at 4031, last 63", "decode 64..<65 at 4095, last none"])
        XCTAssertEqual(try plan(3, at: 4093).map { $0.prefix(6) }, ["decode", "decode", "decode"])
        XCTAssertThrowsError(try plan(2, at: 4095)) { XCTAssertTrue("\($0)".contains("4096")) }
        XCTAssertEqual(try plan(40, at: 4040, slots: 4096).count, 40)  // 64 would pass the end: one by one
    }

    func testThePackagesBackendPadsAndCuts() throws {
        let engine = Engine()
        let manifest = try manifest([("prefill_8", 8), ("decode", 1)], slots: 64, context: 60)
        let backend = try PackageBackend(manifest: manifest, engine: engine, name: "n", versions: [:])
        let embeds = FloatTensor(shape: [11, 4], data: (0..<44).map(Float.init))
        XCTAssertEqual(try backend.decode(embeds, at: 5), [40, 41, 42, 43])
        XCTAssertEqual(engine.calls.map(\.function), ["prefill_8", "prefill_8"])
        let zeros = [Float](repeating: 0, count: 20)
        XCTAssertEqual(
            engine.calls.map(\.inputs),
            [
                ["embeds": .float32(embeds.slice(0..<8)), "position": .int32([5]), "last": .int32([7])],
                [
                    "embeds": .float32(FloatTensor(shape: [8, 4], data: Array(embeds.data[32...]) + zeros)), "position": .int32([13]),
                    "last": .int32([2]),
                ],
            ])
        XCTAssertEqual(try backend.decode(embeds.slice(0..<1), at: 0), [0, 1, 2, 3])
        XCTAssertEqual(engine.calls.last?.inputs, ["embeds": .float32(embeds.slice(0..<1)), "position": .int32([0])])
    }

    func testIDsAreEmbeddedInAsManyCallsAsTheAxisAllows() throws {
        let engine = Engine()
        let manifest = try Fixture.manifest { members in
            guard case .object(var graphs)? = members["graphs"], case .object(var embedding)? = graphs["token_embedding"] else { return }
            embedding["dynamic_axes"] = .array([
                .object(["name": .string("tokens"), "minimum": .number("2"), "maximum": .number("3")])
            ])
            graphs["token_embedding"] = .object(embedding)
            members["graphs"] = .object(graphs)
        }
        let backend = try PackageBackend(manifest: manifest, engine: engine, name: "n", versions: [:])
        let rows = try backend.embed([7, 8, 9, 10])
        XCTAssertEqual(rows.shape, [4, 4])
        XCTAssertEqual((0..<4).map { rows.data[$0 * 4] }, [7, 8, 9, 10])
        XCTAssertEqual(engine.calls.map(\.inputs), [["ids": .int32([7, 8, 9])], ["ids": .int32([10, 0])]])  // padded, and cut again
    }

    func testABundleOfAnotherTargetIsRefused() throws {
        let manifest = try Fixture.manifest { $0["target"] = .string("onnx") }
        assertThrows(
            .wrongTarget(found: "onnx", wanted: ["coreml"]),
            try PackageBackend(manifest: manifest, engine: Engine(), name: "n", versions: [:]))
    }

    func testADecoderWhoseFunctionsAreUnknownIsRefused() throws {
        XCTAssertThrowsError(try manifest([], slots: 64, context: 60)) { XCTAssertTrue("\($0)".contains("a list of functions")) }
        XCTAssertThrowsError(try manifest([("decode", 1)], slots: 59, context: 60)) {
            XCTAssertTrue("\($0)".contains("decoder.details.slots"))
        }
        XCTAssertThrowsError(try manifest([("decode", 0)], slots: 64, context: 60)) { XCTAssertTrue("\($0)".contains("[0].tokens")) }
    }
}

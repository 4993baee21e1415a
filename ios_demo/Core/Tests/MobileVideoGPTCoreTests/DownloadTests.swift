import Synchronization
import XCTest

@testable import MobileVideoGPTCore

/// A server in memory: with or without ranges, and one that breaks off.
private final class Server: Transport {
    struct State {
        var files: [String: Data]
        var ranges = true
        var breaksAfter: [String: Int] = [:]  // bytes of a file, once
        var requests: [String] = []
    }

    let state: Mutex<State>

    init(_ files: [String: Data]) { state = Mutex(State(files: files)) }

    func get(
        _ url: URL, from offset: Int, begin: @escaping @Sendable (TransferStart) throws -> Void,
        receive: @escaping @Sendable (Data) throws -> Void
    ) async throws {
        let path = url.path.replacingOccurrences(of: "/bundles/demo/", with: "")
        let (data, begins, breaks) = state.withLock { state in
            state.requests.append(offset > 0 ? "\(path) from \(offset)" : path)
            return (state.files[path], state.ranges ? offset : 0, state.breaksAfter.removeValue(forKey: path))
        }
        guard let data else { return try begin(TransferStart(status: 404, offset: 0)) }
        if begins > 0, begins >= data.count {
            try begin(TransferStart(status: 416, offset: 0))
            return try receive(Data("no such range".utf8))
        }
        try begin(TransferStart(status: begins > 0 ? 206 : 200, offset: begins))
        for at in stride(from: begins, to: data.count, by: 50) {
            try Task.checkCancellation()
            if let breaks, at >= breaks { throw VideoGPTError.offline(reason: "the connection broke") }
            try receive(data[at..<min(data.count, at + 50)])
        }
    }

    func requests() -> [String] {
        state.withLock { state in
            defer { state.requests = [] }
            return state.requests
        }
    }
}

final class DownloadTests: XCTestCase {
    private let address = " https://example.org/bundles/demo/ "
    private let weights = "decoder.mlpackage/Data/weights/weight.bin"

    private func fixture() throws -> (files: [String: Data], pin: String) {
        var files = try ModelBundleTests.write(try temporaryFolder(self))
        let hashing = PlainHashing()
        let sums = files.keys.sorted().map { "\(hashing.hex(Array(files[$0] ?? Data())))  \($0)\n" }.joined()
        files["SHA256SUMS"] = Data(sums.utf8)
        return (files, hashing.hex(Array(sums.utf8)))
    }

    private func store(_ server: Server, _ folder: URL) -> BundleStore {
        BundleStore(folder: folder, hashing: PlainHashing(), transport: server)
    }

    /// The error of a download.
    private func failure(_ store: BundleStore, _ pin: String, from address: String? = nil, available: Int = .max) async -> VideoGPTError? {
        do {
            _ = try await store.download(from: address ?? self.address, pin: pin, availableBytes: available)
        } catch {
            return error as? VideoGPTError
        }
        return nil
    }

    private func check(_ bundle: URL, _ files: [String: Data]) throws {
        for (path, data) in files { XCTAssertEqual(try Data(contentsOf: bundle.appending(path: path)), data, path) }
        XCTAssertNoThrow(
            try ModelBundle.open(bundle, host: BundleHost(availableBytes: 1000, targets: ["coreml"]), stamps: nil, hashing: PlainHashing()))
        let below = try FileManager.default.subpathsOfDirectory(atPath: bundle.path)
        XCTAssertFalse(below.contains { $0.hasSuffix(".partial") })
    }

    func testABundleIsDownloadedCheckedAndStoredOnce() async throws {
        let (files, pin) = try fixture()
        let (server, folder) = (Server(files), try temporaryFolder(self).appending(path: "bundles"))
        let store = store(server, folder)
        let seen = Mutex<[DownloadProgress]>([])
        let before = await store.bundle(pin: pin)
        XCTAssertNil(before)
        let bundle = try await store.download(from: address, pin: " \(pin.uppercased())\n", availableBytes: .max) { progress in
            seen.withLock { $0.append(progress) }
        }
        try check(bundle, files)
        XCTAssertEqual(server.requests().count, files.count)  // each once
        let again = try await store.download(from: address, pin: pin, availableBytes: 0)
        XCTAssertEqual(again, bundle)
        XCTAssertEqual(server.requests(), [])
        let last = try XCTUnwrap(seen.withLock { $0.last })
        let counted = files.filter { !["SHA256SUMS", "manifest.json"].contains($0.key) }.values.reduce(0) { $0 + $1.count }
        XCTAssertEqual(last.done, counted)
        XCTAssertEqual(last.total, counted)
        XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: folder.path), [pin])
        await store.remove(pin: pin)
        XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: folder.path), [])
    }

    func testAnInterruptedDownloadGoesOnAtTheByte() async throws {
        let (files, pin) = try fixture()
        let (server, folder) = (Server(files), try temporaryFolder(self))
        server.state.withLock { $0.breaksAfter = [weights: 100] }
        let error = await failure(store(server, folder), pin)
        XCTAssertEqual(error, .offline(reason: "the connection broke"))
        let first = server.requests()
        let bundle = try await store(server, folder).download(from: address, pin: pin, availableBytes: .max)  // as another process would
        try check(bundle, files)
        let second = server.requests()
        XCTAssertEqual(second.first, "\(weights) from 100")
        XCTAssertEqual(first.count + second.count, files.count + 1)  // nothing else twice
    }

    func testAServerWithoutRangesGivesTheWholeFileAgain() async throws {
        let (files, pin) = try fixture()
        let (server, folder) = (Server(files), try temporaryFolder(self))
        server.state.withLock { ($0.breaksAfter, $0.ranges) = ([weights: 100], false) }
        _ = await failure(store(server, folder), pin)
        let bundle = try await store(server, folder).download(from: address, pin: pin, availableBytes: .max)
        try check(bundle, files)
    }

    func testAFileWhoseLastByteCameBeforeTheInterruptionIsOnlyChecked() async throws {
        let (files, pin) = try fixture()
        let (server, folder) = (Server(files), try temporaryFolder(self))
        let partial = folder.appending(path: "\(pin).part/\(weights).partial")
        try FileManager.default.createDirectory(at: partial.deletingLastPathComponent(), withIntermediateDirectories: true)
        try files[weights]?.write(to: partial)
        try check(try await store(server, folder).download(from: address, pin: pin, availableBytes: .max), files)
        XCTAssertTrue(server.requests().contains("\(weights) from 200"))
    }

    func testADamagedFileIsThrownAwayAndTheNextAttemptGetsItAnew() async throws {
        let (files, pin) = try fixture()
        let (server, folder) = (Server(files), try temporaryFolder(self))
        server.state.withLock { $0.files[weights] = Data(repeating: 1, count: 200) }
        let error = await failure(store(server, folder), pin)
        XCTAssertEqual(error, .changedFile(weights))
        server.state.withLock { $0.files = files }
        try check(try await store(server, folder).download(from: address, pin: pin, availableBytes: .max), files)
    }

    func testEveryReasonNotToBeginIsSaid() async throws {
        let (files, pin) = try fixture()
        let (server, folder) = (Server(files), try temporaryFolder(self))
        let store = store(server, folder)
        for bad in ["", "abc", pin + "0", String(repeating: "g", count: 64)] {
            let error = await failure(store, bad)
            XCTAssertEqual(error, .invalidPin(bad))
        }
        for bad in ["", "bundles/demo", "file:///etc", "https://", "ftp://example.org/x"] {
            let error = await failure(store, pin, from: bad)
            XCTAssertEqual(error, .badAddress(bad))
        }
        let other = PlainHashing().hex([1])
        let wrong = await failure(store, other)
        XCTAssertEqual(wrong, .wrongPin(expected: other, found: pin))
        let missing = await failure(store, pin, from: "https://example.org/elsewhere")
        XCTAssertEqual(missing, .serverRefused(status: 404, file: "SHA256SUMS"))
        let total = try Manifest(data: files["manifest.json"] ?? Data(), hashing: PlainHashing()).bundleBytes
        let full = await failure(store, pin, available: 10)
        guard case .diskFull(let needed, 10)? = full else { return XCTFail("\(String(describing: full))") }
        XCTAssertTrue(needed > 0 && needed <= total)
        server.state.withLock { $0.files[weights] = nil }
        let refused = await failure(store, pin)
        XCTAssertEqual(refused, .serverRefused(status: 404, file: weights))
    }

    func testAListThatCouldLeaveItsFolderIsRefused() throws {
        let hash = String(repeating: "0", count: 64)
        let manifest = "\(hash)  manifest.json\n"
        XCTAssertEqual(try Checksums(Data((manifest + "\(hash)  a/b\n").utf8)).entries.map(\.path), ["manifest.json", "a/b"])
        for line in ["\(hash)  ../x\n", "\(hash)  /x\n", "\(hash) *x\n", "x\n", "\(hash)  a//b\n", "\(hash)  SHA256SUMS\n", manifest] {
            XCTAssertThrowsError(try Checksums(Data((manifest + line).utf8)), line) {
                XCTAssertEqual(($0 as? VideoGPTError)?.family, .download)
            }
        }
        XCTAssertThrowsError(try Checksums(Data("\(hash)  a\n".utf8)))  // no manifest
        XCTAssertThrowsError(try Checksums(Data([0xFF])))
    }

    func testACancelledDownloadKeepsWhatCame() async throws {
        let (files, pin) = try fixture()
        let (server, folder) = (Server(files), try temporaryFolder(self))
        let (store, address, weights) = (store(server, folder), address, weights)
        let task = Task {
            _ = try await store.download(from: address, pin: pin, availableBytes: .max) { progress in
                if progress.file == weights { withUnsafeCurrentTask { $0?.cancel() } }
            }
        }
        do {
            try await task.value
            XCTFail("it was cancelled")
        } catch { XCTAssertTrue(error is CancellationError, "\(error)") }
        try check(try await store.download(from: address, pin: pin, availableBytes: .max), files)
    }

    /// URLSession against the server that the environment names: /ranges, /plain without ranges, /broken that stops after 100,000 bytes.
    func testURLSessionTransfersFromAByteOn() async throws {
        guard let server = ProcessInfo.processInfo.environment["SERVER"], let base = URL(string: server) else {
            throw XCTSkip("the environment variable SERVER names no server")
        }
        let whole = Data((0..<300_000).map { UInt8(truncatingIfNeeded: $0 % 251) })
        func get(_ path: String, from offset: Int) async throws -> (start: TransferStart?, data: Data) {
            let got = Mutex<(TransferStart?, Data)>((nil, Data()))
            try await URLSessionTransport().get(base.appending(path: path), from: offset) { start in
                got.withLock { $0.0 = start }
            } receive: { data in
                got.withLock { $0.1 += data }
            }
            return got.withLock { ($0.0, $0.1) }
        }
        var answer = try await get("ranges", from: 0)
        XCTAssertEqual(answer.start, TransferStart(status: 200, offset: 0))
        XCTAssertEqual(answer.data, whole)
        answer = try await get("ranges", from: 12345)
        XCTAssertEqual(answer.start, TransferStart(status: 206, offset: 12345))
        XCTAssertEqual(answer.data, whole.dropFirst(12345))
        answer = try await get("plain", from: 12345)
        XCTAssertEqual(answer.start, TransferStart(status: 200, offset: 0))
        XCTAssertEqual(answer.data, whole)
        answer = try await get("none", from: 0)
        XCTAssertEqual(answer.start?.status, 404)
        do {
            _ = try await get("broken", from: 0)
            XCTFail("it broke off")
        } catch { XCTAssertEqual((error as? VideoGPTError)?.family, .download, "\(error)") }
        do {
            try await URLSessionTransport().get(base.appending(path: "ranges"), from: 0) { _ in throw Broken() } receive: { _ in }
            XCTFail("the receiver failed")
        } catch { XCTAssertTrue(error is Broken, "\(error)") }
    }
}

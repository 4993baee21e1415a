import Foundation
import Synchronization

/// What answers a request: `status` and where the body begins, the offset that was asked for or 0 where a server gives the whole.
public struct TransferStart: Sendable, Equatable {
    public let status: Int
    public let offset: Int

    public init(status: Int, offset: Int) {
        self.status = status
        self.offset = offset
    }
}

/// Gets a file from a server: `URLSessionTransport`, or a double in tests.
public protocol Transport: Sendable {
    /// Requests `url` from a byte on. Calls `begin` once, then `receive` for each piece in order, and returns at the end of the body. An
    /// error of theirs ends the transfer and is thrown on. Throws `offline` where the connection fails or breaks, `CancellationError`.
    func get(
        _ url: URL, from offset: Int, begin: @escaping @Sendable (TransferStart) throws -> Void,
        receive: @escaping @Sendable (Data) throws -> Void
    ) async throws
}

/// How far a download is.
public struct DownloadProgress: Sendable, Equatable {
    public let file: String
    /// Bytes of the bundle that are here, of `total`, which is known once the manifest is here.
    public let done: Int
    public let total: Int?
}

/// The bundles on a device: one folder, in it one folder for each bundle, named by its pin, which is stored once. A download that was
/// interrupted goes on where it stopped, at the byte, in this process or the next.
public actor BundleStore {
    private let folder: URL
    private let hashing: any Hashing
    private let transport: any Transport

    public init(folder: URL, hashing: any Hashing, transport: any Transport) {
        self.folder = folder
        self.hashing = hashing
        self.transport = transport
    }

    /// The bundle with this pin, where it is here in full.
    public func bundle(pin: String) -> URL? {
        let whole = folder.appending(path: pin)
        return isSHA256(pin) && exists(whole) ? whole : nil
    }

    /// Downloads the bundle below `address`, the folder that holds its `SHA256SUMS`, checks every file, and returns its folder; a bundle
    /// that is here is not downloaded again. `availableBytes` are those free on the disk. Throws `VideoGPTError`'s download cases, and
    /// `CancellationError`; what has arrived stays for the next time.
    public func download(
        from address: String, pin: String, availableBytes: Int, progress: @escaping @Sendable (DownloadProgress) -> Void = { _ in }
    ) async throws -> URL {
        let pin = pin.trimmingCharacters(in: .whitespacesAndNewlines).lowercased()
        guard isSHA256(pin) else { throw VideoGPTError.invalidPin(printable(pin, 80)) }
        if let whole = bundle(pin: pin) { return whole }
        let base = try Self.base(address)
        let part = folder.appending(path: "\(pin).part")
        try write(part) { try FileManager.default.createDirectory(at: part, withIntermediateDirectories: true) }

        let sums = try await checksums(base, part, pin)
        try await fetch(sums.filter { $0.path == Manifest.fileName }, base, part, Tally(total: nil, report: progress))
        let manifest = try ModelBundle.readManifest(part, hashing: hashing)
        let tally = Tally(total: manifest.bundleBytes, report: progress)
        let missing = manifest.bundleBytes - bytesHere(sums, part)
        guard missing <= availableBytes else { throw VideoGPTError.diskFull(needed: missing, available: availableBytes) }
        try await fetch(sums, base, part, tally)
        let whole = folder.appending(path: pin)
        if !exists(whole) { try write(whole) { try FileManager.default.moveItem(at: part, to: whole) } }
        return whole
    }

    /// Removes a bundle, and what has arrived of it.
    public func remove(pin: String) {
        guard isSHA256(pin) else { return }
        for name in [pin, "\(pin).part"] { try? FileManager.default.removeItem(at: folder.appending(path: name)) }
    }

    private static func base(_ address: String) throws -> URL {
        let text = address.trimmingCharacters(in: .whitespacesAndNewlines)
        guard let url = URL(string: text), ["https", "http"].contains(url.scheme?.lowercased()), url.host()?.isEmpty == false else {
            throw VideoGPTError.badAddress(printable(text, 80))
        }
        return url
    }

    /// The list of hashes, which the pin vouches for. It is small: one that is wrong is not kept.
    private func checksums(_ base: URL, _ part: URL, _ pin: String) async throws -> [Checksums.Entry] {
        let file = part.appending(path: BundleFiles.checksums)
        if let kept = try? Data(contentsOf: file), hashing.hex(Array(kept)) == pin { return try Checksums(kept).entries }
        try? FileManager.default.removeItem(at: file)
        try await transfer(BundleFiles.checksums, base, to: file) { _ in }
        let found = try BundleFiles(folder: part, hashing: hashing).hash(BundleFiles.checksums)
        guard found == pin else {
            try? FileManager.default.removeItem(at: file)
            throw VideoGPTError.wrongPin(expected: pin, found: found)
        }
        return try Checksums(try Data(contentsOf: file)).entries
    }

    /// Gets each file that is not here yet under a name of its own, and gives it its name once its hash is right.
    private func fetch(_ entries: [Checksums.Entry], _ base: URL, _ part: URL, _ tally: Tally) async throws {
        for entry in entries {
            try Task.checkCancellation()
            let file = part.appending(path: entry.path)
            if exists(file) {  // its hash was right when it got its name
                tally.add(size(file), entry.path)
                continue
            }
            let partial = part.appending(path: "\(entry.path)\(Self.partialSuffix)")
            try write(file) {
                try FileManager.default.createDirectory(at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
            }
            try await transfer(entry.path, base, to: partial) { tally.add($0, entry.path) }
            guard try BundleFiles(folder: part, hashing: hashing).hash("\(entry.path)\(Self.partialSuffix)") == entry.sha256 else {
                try? FileManager.default.removeItem(at: partial)
                throw VideoGPTError.changedFile(entry.path)
            }
            try write(file) { try FileManager.default.moveItem(at: partial, to: file) }
        }
    }

    /// Appends to `file` what is missing behind its end; a server that gives the whole begins it anew. `gained` gets bytes, negative where
    /// some that were here are thrown away.
    private func transfer(_ path: String, _ base: URL, to file: URL, gained: @escaping @Sendable (Int) -> Void) async throws {
        if !exists(file) { try write(file) { try Data().write(to: file) } }
        let begin = size(file)
        gained(begin)
        let sink = try FileSink(file)
        let url = path.split(separator: "/").reduce(base) { $0.appending(path: String($1)) }
        try await transport.get(url, from: begin) { start in
            if start.status == 416, begin > 0 { return sink.ignore() }  // nothing is missing behind the end: the hash will tell
            guard [200, 206].contains(start.status), start.offset == 0 || start.offset == begin else {
                throw VideoGPTError.serverRefused(status: start.status, file: path)
            }
            gained(start.offset - begin)
            try sink.truncate(to: start.offset)
        } receive: { data in
            gained(try sink.append(data))
        }
    }

    static let partialSuffix = ".partial"

    private func write(_ url: URL, _ work: () throws -> Void) throws {
        do { try work() } catch { throw VideoGPTError.cannotWrite(path: url.lastPathComponent, reason: oneLine(error)) }
    }

    private func exists(_ url: URL) -> Bool { FileManager.default.fileExists(atPath: url.path) }

    private func size(_ url: URL) -> Int {
        ((try? FileManager.default.attributesOfItem(atPath: url.path))?[.size] as? NSNumber)?.intValue ?? 0
    }

    /// Bytes of the files that the manifest's `bundle_bytes` counts, in full and in part.
    private func bytesHere(_ entries: [Checksums.Entry], _ part: URL) -> Int {
        entries.filter { Tally.counts($0.path) }.reduce(0) { sum, entry in
            sum + size(part.appending(path: entry.path)) + size(part.appending(path: "\(entry.path)\(Self.partialSuffix)"))
        }
    }
}

/// Bytes of a bundle that are here, of those that its manifest counts.
private final class Tally: Sendable {
    private let done = Mutex(0)
    private let total: Int?
    private let report: @Sendable (DownloadProgress) -> Void

    init(total: Int?, report: @escaping @Sendable (DownloadProgress) -> Void) {
        self.total = total
        self.report = report
    }

    /// Whether the manifest's `bundle_bytes` counts a file.
    static func counts(_ path: String) -> Bool { ![Manifest.fileName, "README.md"].contains(path) }

    func add(_ bytes: Int, _ file: String) {
        guard Self.counts(file) else { return }
        let now = done.withLock { count in
            count += bytes
            return count
        }
        report(DownloadProgress(file: file, done: now, total: total))
    }
}

/// The end of a file that grows. Errors are `cannotWrite`.
private final class FileSink: Sendable {
    private struct State {
        let handle: FileHandle
        var ignores = false
    }

    private let name: String
    private let state: Mutex<State>

    init(_ file: URL) throws {
        name = file.lastPathComponent
        do {
            state = Mutex(State(handle: try FileHandle(forWritingTo: file)))
        } catch {
            throw VideoGPTError.cannotWrite(path: file.lastPathComponent, reason: oneLine(error))
        }
    }

    /// What follows is no part of the file.
    func ignore() { state.withLock { $0.ignores = true } }

    func truncate(to bytes: Int) throws {
        try attempt { state in
            try state.handle.truncate(atOffset: UInt64(bytes))
            try state.handle.seek(toOffset: UInt64(bytes))
        }
    }

    /// Returns the bytes that were written.
    func append(_ data: Data) throws -> Int {
        try attempt { state in
            guard !state.ignores else { return 0 }
            try state.handle.write(contentsOf: data)
            return data.count
        }
    }

    deinit { state.withLock { try? $0.handle.close() } }

    private func attempt<Result: Sendable>(_ work: (State) throws -> Result) throws -> Result {
        do {
            return try state.withLock { try work($0) }
        } catch {
            throw VideoGPTError.cannotWrite(path: name, reason: oneLine(error))
        }
    }
}

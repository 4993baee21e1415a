import Foundation

/// Sizes and SHA-256 of files and folders below one folder, as `export/bundle.py` has them: the hash of a folder is that of the text that
/// `sha256sum` prints for all its files, in the order of their relative paths. The Finder's own files do not count.
struct BundleFiles {
    /// Name, size, modification time (seconds) and number of a file: what changes when somebody writes it.
    struct Look: Codable, Equatable {
        let path: String
        let bytes: Int
        let modified: Double
        let number: Int
    }

    static let checksums = "SHA256SUMS"
    private static let piece = 1 << 20

    let folder: URL
    let hashing: any Hashing

    /// A look at each file of an entry, once their sizes add up. Throws `missingFile`, `changedFile`.
    func look(_ path: String, bytes: Int) throws -> [Look] {
        let looks = try filesBelow(path).map { file in
            let attributes: [FileAttributeKey: Any]
            do {
                attributes = try FileManager.default.attributesOfItem(atPath: url(file).resolvingSymlinksInPath().path)
            } catch {
                throw failure(file, error)
            }
            return Look(
                path: file, bytes: (attributes[.size] as? NSNumber)?.intValue ?? -1,
                modified: (attributes[.modificationDate] as? Date)?.timeIntervalSince1970 ?? 0,
                number: (attributes[.systemFileNumber] as? NSNumber)?.intValue ?? 0)
        }
        guard looks.reduce(0, { $0 + $1.bytes }) == bytes else { throw VideoGPTError.changedFile(path) }
        return looks
    }

    /// SHA-256 (hex) of a file or folder. `read` gets the bytes that were hashed, piece by piece.
    func hash(_ path: String, read: (Int) -> Void = { _ in }) throws -> String {
        guard isFolder(path) else { return try hashFile(path, read: read) }
        var listing = ""
        for file in try filesBelow(path) where file != "\(path)/\(Self.checksums)" {
            listing += "\(try hashFile(file, read: read))  \(file.dropFirst(path.utf8.count + 1))\n"
        }
        return hashing.hex(Array(listing.utf8))
    }

    private func hashFile(_ path: String, read: (Int) -> Void) throws -> String {
        var state = hashing.sha256()
        do {
            let file = try FileHandle(forReadingFrom: url(path))
            defer { try? file.close() }
            while try autoreleased({
                let data = try file.read(upToCount: Self.piece) ?? Data()
                data.withUnsafeBytes { state.update($0) }
                read(data.count)
                return !data.isEmpty
            }) { try Task.checkCancellation() }
        } catch let error as CancellationError {
            throw error
        } catch {
            throw failure(path, error)
        }
        return hex(state.finish())
    }

    /// Files of an entry in the order of their paths: one, or those in a folder and its folders.
    private func filesBelow(_ path: String) throws -> [String] {
        guard isFolder(path) else {
            guard FileManager.default.fileExists(atPath: url(path).path) else { throw VideoGPTError.missingFile(path) }
            return [path]
        }
        let below: [String]
        do {
            below = try FileManager.default.subpathsOfDirectory(atPath: url(path).path)
        } catch {
            throw failure(path, error)
        }
        let files = below.filter { !isFolder("\(path)/\($0)") && !($0 == ".DS_Store" || $0.hasSuffix("/.DS_Store")) }
        return files.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }.map { "\(path)/\($0)" }
    }

    private func isFolder(_ path: String) -> Bool {
        var folder: ObjCBool = false
        return FileManager.default.fileExists(atPath: url(path).path, isDirectory: &folder) && folder.boolValue
    }

    private func url(_ path: String) -> URL { folder.appending(path: path) }

    private func failure(_ path: String, _ error: any Error) -> VideoGPTError {
        FileManager.default.fileExists(atPath: url(path).path)
            ? .unreadableFile(path, reason: oneLine(error)) : .missingFile(path)
    }
}

extension Hashing {
    /// SHA-256 in lower-case hex.
    func hex(_ bytes: [UInt8]) -> String {
        var state = sha256()
        bytes.withUnsafeBytes { state.update($0) }
        return MobileVideoGPTCore.hex(state.finish())
    }
}

func hex(_ bytes: [UInt8]) -> String {
    bytes.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
}

/// Frees what Foundation's calls leave behind on Apple's systems, where a loop over a large file would pile it up.
func autoreleased<Result>(_ work: () throws -> Result) rethrows -> Result {
    #if canImport(ObjectiveC)
        return try autoreleasepool(invoking: work)
    #else
        return try work()
    #endif
}

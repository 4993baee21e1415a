import Foundation

/// A place in parsed JSON, read strictly: a missing or an unknown key, a wrong type and a value out of range are refused in one line that
/// names the place, such as `graphs.decoder.inputs[1].shape[0]`. Nothing is converted or repaired. Throws `JSONError`.
struct Place {
    let value: JSONValue
    let path: String

    init(_ value: JSONValue, path: String = "") {
        self.value = value
        self.path = path
    }

    /// An object with exactly these keys.
    func object(_ keys: String...) throws -> Members { try object(named: keys) }

    func object(named keys: [String]) throws -> Members {
        let members = try members()
        for key in keys where members[key] == nil { throw JSONError(line: "\(join(key)) is missing") }
        for key in members.keys.sorted() where !keys.contains(key) { throw JSONError(line: "\(join(key)) is not known to this version") }
        return Members(place: self, members: members)
    }

    /// An object of any keys, each value read by `read`.
    func map<Value>(_ read: (Place) throws -> Value) throws -> [String: Value] {
        try Dictionary(uniqueKeysWithValues: members().map { ($0, try read(Place($1, path: join($0)))) })
    }

    /// nil for null.
    func optional<Value>(_ read: (Place) throws -> Value) throws -> Value? { value == .null ? nil : try read(self) }

    func list<Value>(_ read: (Place) throws -> Value) throws -> [Value] {
        guard case .array(let items) = value else { throw refusal("a list") }
        return try items.enumerated().map { try read(Place($1, path: "\(path)[\($0)]")) }
    }

    func string(_ says: String = "a string", where allowed: (String) -> Bool = { _ in true }) throws -> String {
        guard case .string(let text) = value else { throw refusal("a string") }
        guard allowed(text) else { throw refusal(says) }
        return text
    }

    /// Not empty, without control characters.
    func name() throws -> String {
        try string("a name, not empty") { !$0.isEmpty && $0.unicodeScalars.allSatisfy { $0.value >= 0x20 } }
    }

    func choice(_ choices: String...) throws -> String { try string("one of \(choices.joined(separator: ", "))") { choices.contains($0) } }

    func sha256() throws -> String { try string("a SHA-256 in lower-case hex", where: isSHA256) }

    func relativePath() throws -> String {
        try string("a relative path inside the bundle, of letters, digits, '.', '_', '-'", where: isRelativePath)
    }

    func bool() throws -> Bool {
        guard case .bool(let flag) = value else { throw refusal("true or false") }
        return flag
    }

    func int(from minimum: Int? = nil) throws -> Int {
        guard case .number(let digits) = value, let number = Int(digits) else { throw refusal("an integer") }
        if let minimum, number < minimum { throw refusal("\(minimum) or more") }
        return number
    }

    func double(_ range: ClosedRange<Double> = -Double.greatestFiniteMagnitude...Double.greatestFiniteMagnitude) throws -> Double {
        guard case .number(let digits) = value, let number = Double(digits), number.isFinite else { throw refusal("a finite number") }
        guard range.contains(number) else {
            throw refusal(range.upperBound == 1 ? "a share from 0 to 1" : "\(Int(range.lowerBound)) or more")
        }
        return number
    }

    /// The error that says what must stand here, and what stands here.
    func refusal(_ wanted: String) -> JSONError {
        let shown: String =
            switch value {
            case .null: "null"
            case .bool(let flag): String(flag)
            case .number(let digits): String(digits.prefix(60))
            case .string(let text): "'\(printable(text, 60))'"
            case .array(let items): "a list of \(items.count)"
            case .object: "an object"
            }
        return JSONError(line: "\(path.isEmpty ? "the whole" : path) must be \(wanted), not \(shown)")
    }

    private func members() throws -> [String: JSONValue] {
        guard case .object(let members) = value else { throw refusal("an object") }
        return members
    }

    fileprivate func join(_ key: String) -> String { path.isEmpty ? printable(key, 80) : "\(path).\(printable(key, 80))" }
}

/// An object whose keys were checked.
struct Members {
    fileprivate let place: Place
    fileprivate let members: [String: JSONValue]

    subscript(_ key: String) -> Place { Place(members[key] ?? .null, path: place.join(key)) }
}

/// Text from a file, cut, and without what plays tricks on a screen.
func printable(_ text: String, _ most: Int) -> String {
    String(text.unicodeScalars.prefix(most).map { $0.value < 0x20 || $0.value == 0x7F ? "?" : Character($0) })
}

func isSHA256(_ text: String) -> Bool {
    text.utf8.count == 64 && text.utf8.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x66).contains($0) }
}

/// Parts of letters, digits, '.', '_' and '-', none of them '.' or '..': the path cannot leave its folder.
func isRelativePath(_ path: String) -> Bool {
    path.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false).allSatisfy { part in
        !part.isEmpty && !part.elementsEqual(".".utf8) && !part.elementsEqual("..".utf8)
            && part.allSatisfy { byte in
                (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte) || ".-_".utf8.contains(byte)
            }
    }
}

import Foundation

/// Parsed JSON. Numbers keep their digits, so that what was read can be written in the same form again: a manifest's hash is of that form.
enum JSONValue: Sendable, Equatable {
    case null
    case bool(Bool)
    case number(String)
    case string(String)
    case array([JSONValue])
    case object([String: JSONValue])

    /// Parses UTF-8. Throws `JSONError`, whose line says where the text is wrong.
    init(parsing data: Data) throws {
        var parser = JSONParser(bytes: Array(data))
        self = try parser.whole()
    }

    /// Sorted keys, no spaces, ASCII: what Python's `json.dumps(value, sort_keys=True, separators=(",", ":"))` writes of the same text.
    var canonical: String {
        switch self {
        case .null: "null"
        case .bool(let value): value ? "true" : "false"
        case .number(let digits): digits
        case .string(let text): Self.quoted(text)
        case .array(let items): "[\(items.map(\.canonical).joined(separator: ","))]"
        case .object(let members):
            "{" + members.sorted { $0.key.unicodeScalars.lexicographicallyPrecedes($1.key.unicodeScalars) }
                .map { "\(Self.quoted($0.key)):\($0.value.canonical)" }.joined(separator: ",") + "}"
        }
    }

    private static func quoted(_ text: String) -> String {
        let short: [UInt16: String] = [0x22: "\\\"", 0x5C: "\\\\", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x0C: "\\f", 0x08: "\\b"]
        var out = "\""
        for unit in text.utf16 {
            if let escape = short[unit] {
                out += escape
            } else if unit < 0x20 || unit > 0x7E && unit != 0x7F {
                out += "\\u" + String(format: "%04x", Int(unit))
            } else {
                out.unicodeScalars.append(Unicode.Scalar(UInt8(unit)))
            }
        }
        return out + "\""
    }
}

struct JSONError: Error {
    let line: String
}

/// RFC 8259, with a limit on nesting.
private struct JSONParser {
    let bytes: [UInt8]
    var at = 0
    var depth = 0

    init(bytes: [UInt8]) { self.bytes = bytes }

    private static let deepest = 200

    mutating func whole() throws -> JSONValue {
        let value = try value()
        skipSpace()
        guard at == bytes.count else { throw wrong("text behind its end") }
        return value
    }

    private func wrong(_ what: String) -> JSONError { JSONError(line: "not valid JSON (\(what) at byte \(at))") }

    private var next: UInt8? { at < bytes.count ? bytes[at] : nil }

    private mutating func skipSpace() {
        while let byte = next, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 { at += 1 }
    }

    private mutating func take(_ text: StaticString) -> Bool {
        let wanted = UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)
        guard bytes[at...].starts(with: wanted) else { return false }
        at += wanted.count
        return true
    }

    private mutating func value() throws -> JSONValue {
        skipSpace()
        switch next {
        case UInt8(ascii: "{"): return try nested { try $0.object() }
        case UInt8(ascii: "["): return try nested { try $0.array() }
        case UInt8(ascii: "\""): return .string(try string())
        case UInt8(ascii: "t") where take("true"): return .bool(true)
        case UInt8(ascii: "f") where take("false"): return .bool(false)
        case UInt8(ascii: "n") where take("null"): return .null
        default: return .number(try number())
        }
    }

    private mutating func nested(_ read: (inout JSONParser) throws -> JSONValue) throws -> JSONValue {
        depth += 1
        guard depth <= Self.deepest else { throw wrong("endless nesting") }
        defer { depth -= 1 }
        at += 1
        return try read(&self)
    }

    private mutating func object() throws -> JSONValue {
        var members: [String: JSONValue] = [:]
        skipSpace()
        if take("}") { return .object(members) }
        while true {
            skipSpace()
            guard next == UInt8(ascii: "\"") else { throw wrong("no key") }
            let key = try string()
            skipSpace()
            guard take(":") else { throw wrong("no colon") }
            members[key] = try value()
            skipSpace()
            if take("}") { return .object(members) }
            guard take(",") else { throw wrong("no comma") }
        }
    }

    private mutating func array() throws -> JSONValue {
        var items: [JSONValue] = []
        skipSpace()
        if take("]") { return .array(items) }
        while true {
            items.append(try value())
            skipSpace()
            if take("]") { return .array(items) }
            guard take(",") else { throw wrong("no comma") }
        }
    }

    private mutating func number() throws -> String {
        let begin = at
        func isDigit(_ byte: UInt8?) -> Bool { byte.map { (0x30...0x39).contains($0) } ?? false }
        _ = take("-")
        guard isDigit(next) else { throw wrong("no value") }
        if !take("0") { while isDigit(next) { at += 1 } }
        if take(".") {
            guard isDigit(next) else { throw wrong("no digit") }
            while isDigit(next) { at += 1 }
        }
        if next == UInt8(ascii: "e") || next == UInt8(ascii: "E") {
            at += 1
            if next == UInt8(ascii: "+") || next == UInt8(ascii: "-") { at += 1 }
            guard isDigit(next) else { throw wrong("no digit") }
            while isDigit(next) { at += 1 }
        }
        return String(decoding: bytes[begin..<at], as: UTF8.self)
    }

    private mutating func string() throws -> String {
        at += 1
        var text: [UInt8] = []
        while let byte = next {
            at += 1
            switch byte {
            case UInt8(ascii: "\""):
                guard let valid = String(validating: text, as: UTF8.self) else { throw wrong("bytes that are not UTF-8") }
                return valid
            case UInt8(ascii: "\\"): text += try escape()
            case 0..<0x20: throw wrong("a control character")
            default: text.append(byte)
            }
        }
        throw wrong("a string without end")
    }

    private mutating func escape() throws -> [UInt8] {
        let plain: [UInt8: UInt8] = [0x22: 0x22, 0x5C: 0x5C, 0x2F: 0x2F, 0x62: 0x08, 0x66: 0x0C, 0x6E: 0x0A, 0x72: 0x0D, 0x74: 0x09]
        guard let kind = next else { throw wrong("a string without end") }
        at += 1
        if let byte = plain[kind] { return [byte] }
        guard kind == UInt8(ascii: "u") else { throw wrong("an unknown escape") }
        var units = [try hex()]
        if UTF16.isLeadSurrogate(units[0]), take("\\u") { units.append(try hex()) }
        guard let text = String(validating: units, as: UTF16.self) else { throw wrong("half a character") }
        return Array(text.utf8)
    }

    private mutating func hex() throws -> UInt16 {
        guard at + 4 <= bytes.count, bytes[at..<at + 4].allSatisfy({ ($0 as UInt8).isHexDigit }),
            let unit = UInt16(String(decoding: bytes[at..<at + 4], as: UTF8.self), radix: 16)
        else { throw wrong("an unknown escape") }
        at += 4
        return unit
    }
}

extension UInt8 {
    var isHexDigit: Bool { (0x30...0x39).contains(self) || (0x41...0x46).contains(self) || (0x61...0x66).contains(self) }
}

"""Questions about Chinook, the sample database of a music shop, which comes without any.

A template has a place for a value, which is drawn from the database; each value makes a question.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..errors import UsageError
from ..tasks import split_of
from .database import Result
from .sqlite_database import SQLiteDatabase

_MOST_VALUES = 25  # per template


class Template(NamedTuple):
    """A kind of question.

    Attributes:
        family: its name.
        difficulty: easy, medium, hard or extra.
        text: the question, with `{v}` for the value.
        sql: the reference, with `{v}` for the value as SQL.
        values: a query for the values; empty where there is no place for one.
    """

    family: str
    difficulty: str
    text: str
    sql: str
    values: str = ""


_COUNTRIES = "SELECT Country FROM Customer GROUP BY Country ORDER BY COUNT(*) DESC, Country"
_GENRES = "SELECT Name FROM Genre ORDER BY GenreId"
_ARTISTS = "SELECT r.Name FROM Artist AS r JOIN Album AS a ON a.ArtistId = r.ArtistId GROUP BY r.ArtistId ORDER BY COUNT(*) DESC, r.Name"
_YEARS = "SELECT DISTINCT substr(InvoiceDate, 1, 4) FROM Invoice ORDER BY 1"
_TRACKS_OF_GENRE = "FROM Track AS t JOIN Genre AS g ON t.GenreId = g.GenreId"
_SOLD = "FROM InvoiceLine AS l JOIN Track AS t ON l.TrackId = t.TrackId"

TEMPLATES = (
    Template(
        "count_where",
        "easy",
        "How many customers live in {v}?",
        "SELECT COUNT(*) FROM Customer WHERE Country = {v}",
        _COUNTRIES,
    ),
    Template(
        "list_where",
        "easy",
        "Give first and last name of the customers from {v}.",
        "SELECT FirstName, LastName FROM Customer WHERE Country = {v}",
        _COUNTRIES,
    ),
    Template(
        "distinct",
        "easy",
        "In which different cities of {v} do customers live?",
        "SELECT DISTINCT City FROM Customer WHERE Country = {v}",
        _COUNTRIES,
    ),
    Template(
        "total",
        "easy",
        "What is the total of all invoices billed to {v}?",
        "SELECT SUM(Total) FROM Invoice WHERE BillingCountry = {v}",
        _COUNTRIES,
    ),
    Template(
        "missing",
        "easy",
        "How many customers from {v} have no company?",
        "SELECT COUNT(*) FROM Customer WHERE Country = {v} AND Company IS NULL",
        _COUNTRIES,
    ),
    Template(
        "in_year",
        "easy",
        "How many invoices are dated in the year {v}?",
        "SELECT COUNT(*) FROM Invoice WHERE substr(InvoiceDate, 1, 4) = {v}",
        _YEARS,
    ),
    Template(
        "longest",
        "easy",
        "Which {v} tracks are the longest? Name them in falling order of length, then by name.",
        "SELECT Name FROM Track ORDER BY Milliseconds DESC, Name LIMIT {v}",
        "SELECT value FROM (SELECT 2 AS value UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6 UNION SELECT 7 UNION SELECT 8)",
    ),
    Template(
        "group_count",
        "medium",
        "How many tracks does each media type have? Give its name and the number.",
        "SELECT m.Name, COUNT(*) FROM Track AS t JOIN MediaType AS m ON t.MediaTypeId = m.MediaTypeId GROUP BY m.MediaTypeId, m.Name",
    ),
    Template(
        "having",
        "medium",
        "Which countries have more than {v} customers?",
        "SELECT Country FROM Customer GROUP BY Country HAVING COUNT(*) > {v}",
        "SELECT value FROM (SELECT 1 AS value UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 7)",
    ),
    Template(
        "join_count",
        "medium",
        "How many tracks are of the genre {v}?",
        f"SELECT COUNT(*) {_TRACKS_OF_GENRE} WHERE g.Name = {{v}}",
        _GENRES,
    ),
    Template(
        "join_average",
        "medium",
        "How long in milliseconds is a track of the genre {v} on average?",
        f"SELECT AVG(t.Milliseconds) {_TRACKS_OF_GENRE} WHERE g.Name = {{v}}",
        _GENRES,
    ),
    Template(
        "join_list",
        "medium",
        "Which albums are by {v}? Give their titles.",
        "SELECT a.Title FROM Album AS a JOIN Artist AS r ON a.ArtistId = r.ArtistId WHERE r.Name = {v}",
        _ARTISTS,
    ),
    Template(
        "join_composer",
        "medium",
        "Name the different composers of the tracks of the genre {v}; leave out unknown ones.",
        f"SELECT DISTINCT t.Composer {_TRACKS_OF_GENRE} WHERE g.Name = {{v}} AND t.Composer IS NOT NULL",
        _GENRES,
    ),
    Template(
        "outer_join",
        "medium",
        "How many tracks has each playlist? Give the id of the playlist and the number, zero included.",
        "SELECT p.PlaylistId, COUNT(t.TrackId) FROM Playlist AS p LEFT JOIN PlaylistTrack AS t ON t.PlaylistId = p.PlaylistId GROUP BY p.PlaylistId",
    ),
    Template(
        "no_match",
        "medium",
        "How many artists have no album?",
        "SELECT COUNT(*) FROM Artist AS r LEFT JOIN Album AS a ON a.ArtistId = r.ArtistId WHERE a.AlbumId IS NULL",
    ),
    Template(
        "three_tables",
        "hard",
        "How many tracks are on albums by {v}?",
        "SELECT COUNT(*) FROM Track AS t JOIN Album AS a ON t.AlbumId = a.AlbumId JOIN Artist AS r ON a.ArtistId = r.ArtistId WHERE r.Name = {v}",
        _ARTISTS,
    ),
    Template(
        "sold",
        "hard",
        "How much was taken (unit price times quantity) for tracks of the genre {v}?",
        f"SELECT SUM(l.UnitPrice * l.Quantity) {_SOLD} JOIN Genre AS g ON t.GenreId = g.GenreId WHERE g.Name = {{v}}",
        _GENRES,
    ),
    Template(
        "self_join",
        "hard",
        "Who works directly under the employee with the last name {v}? Give first and last name.",
        "SELECT e.FirstName, e.LastName FROM Employee AS e JOIN Employee AS b ON e.ReportsTo = b.EmployeeId WHERE b.LastName = {v}",
        "SELECT DISTINCT b.LastName FROM Employee AS e JOIN Employee AS b ON e.ReportsTo = b.EmployeeId ORDER BY 1",
    ),
    Template(
        "above_average",
        "hard",
        "How many tracks of the genre {v} are longer than the average of all tracks?",
        f"SELECT COUNT(*) {_TRACKS_OF_GENRE} WHERE g.Name = {{v}} AND t.Milliseconds > (SELECT AVG(Milliseconds) FROM Track)",
        _GENRES,
    ),
    Template(
        "in_subquery",
        "hard",
        "Give the last names of the customers from {v} with an invoice of more than 10.",
        "SELECT LastName FROM Customer WHERE Country = {v} AND CustomerId IN (SELECT CustomerId FROM Invoice WHERE Total > 10)",
        _COUNTRIES,
    ),
    Template(
        "not_exists",
        "hard",
        "Name the tracks on albums by {v} that were never sold.",
        "SELECT t.Name FROM Track AS t JOIN Album AS a ON t.AlbumId = a.AlbumId JOIN Artist AS r ON a.ArtistId = r.ArtistId WHERE r.Name = {v} AND NOT EXISTS (SELECT 1 FROM InvoiceLine AS l WHERE l.TrackId = t.TrackId)",
        _ARTISTS,
    ),
    Template(
        "set_difference",
        "hard",
        "In which countries are there customers but no invoices of the year {v}?",
        "SELECT Country FROM Customer EXCEPT SELECT BillingCountry FROM Invoice WHERE substr(InvoiceDate, 1, 4) = {v}",
        _YEARS,
    ),
    Template(
        "best_customer",
        "hard",
        "Who of {v} spent most on invoices? Give first and last name; among equals the first by last name.",
        "SELECT c.FirstName, c.LastName FROM Customer AS c JOIN Invoice AS i ON i.CustomerId = c.CustomerId WHERE c.Country = {v} GROUP BY c.CustomerId ORDER BY SUM(i.Total) DESC, c.LastName LIMIT 1",
        _COUNTRIES,
    ),
    Template(
        "share",
        "extra",
        "What percentage of the invoice totals of all countries falls to {v}?",
        "SELECT 100.0 * SUM(CASE WHEN BillingCountry = {v} THEN Total ELSE 0 END) / SUM(Total) FROM Invoice",
        _COUNTRIES,
    ),
    Template(
        "window",
        "extra",
        "Rank the genres by the number of their tracks (equal ones by name) and give name and number of those in the places 1 to {v}.",
        f"SELECT name, n FROM (SELECT g.Name AS name, COUNT(*) AS n, ROW_NUMBER() OVER (ORDER BY COUNT(*) DESC, g.Name) AS place {_TRACKS_OF_GENRE} GROUP BY g.GenreId, g.Name) WHERE place <= {{v}}",
        "SELECT value FROM (SELECT 3 AS value UNION SELECT 4 UNION SELECT 5 UNION SELECT 6 UNION SELECT 8 UNION SELECT 10)",
    ),
    Template(
        "running_total",
        "extra",
        "List the invoices billed to {v} by date and id: the date, and the total so far.",
        "SELECT InvoiceDate, SUM(Total) OVER (ORDER BY InvoiceDate, InvoiceId) FROM Invoice WHERE BillingCountry = {v} ORDER BY InvoiceDate, InvoiceId",
        _COUNTRIES,
    ),
    Template(
        "recursive",
        "extra",
        "How many employees work under the one with the last name {v}, directly or through others?",
        "WITH RECURSIVE under(id) AS (SELECT e.EmployeeId FROM Employee AS e JOIN Employee AS b ON e.ReportsTo = b.EmployeeId WHERE b.LastName = {v} UNION SELECT e.EmployeeId FROM Employee AS e JOIN under AS u ON e.ReportsTo = u.id) SELECT COUNT(*) FROM under",
        "SELECT DISTINCT b.LastName FROM Employee AS e JOIN Employee AS b ON e.ReportsTo = b.EmployeeId ORDER BY 1",
    ),
)
"""The kinds of questions, of which each draws its values from the file."""


def chinook_questions(base: SQLiteDatabase) -> Iterator[tuple[Template, str, str, str]]:
    """The questions about a Chinook file: template, split, text, reference.

    The split follows from the reference: 8 of 10 train, 1 val, 1 test.

    Raises:
        UsageError: the file has no such tables.
    """
    for template in TEMPLATES:
        values: list[object] = [None]
        if template.values:
            found = base.run(template.values, _MOST_VALUES)
            if not isinstance(found, Result):
                raise UsageError(f"{base.path}: this is not Chinook's SQLite file ({found.why})")
            values = [row[0] for row in found.rows]
        for value in values:
            literal = "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)
            sql = template.sql.replace("{v}", literal)
            yield template, split_of(sql), template.text.replace("{v}", str(value)), sql

"""The live areas of the pages. Each part is a pure function from the engine and a query to markup."""

"""The parts that stay live in the browser without a rerun: charts and values, fed by one event stream per tab."""

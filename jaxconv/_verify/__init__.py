"""What `jaxconv.verify` is made of; its doors and their documentation are in `verify`.

    report        rows, kinks and the table
    function      fn as a map from one flat float64 vector to another, with its derivatives
    differences   Richardson-extrapolated central differences, one-sided ones, kinks
    compare       errors and limits: when two numbers count as equal
    closed_form   what the closed form returns, read and seen to have the right shapes
    first_order   the checks of first derivatives and of the closed form
    orders        the checks of second and higher derivatives
    diagnosis     which known slip explains a wrong gradient
      convolutions    slips inside of a convolution that fn performs
      rearrangements  slips that show in the numbers alone
      shapes          slips that show in a wrong shape
    trilinear     a convolution's three projections in NumPy, with any geometry
    traced        fn's jaxpr: its convolutions, the cotangents that reach them

Imports point downwards only: the last four know nothing about checks.
"""
